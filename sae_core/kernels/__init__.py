"""Operations on selected latents: sparse and fast, each with a dense truth beside it."""
