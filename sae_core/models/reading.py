"""SAEs that are read and not trained: encoding by a backend, which keeps beside the weights what makes it fast."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.backend import Backend
from sae_core.kernels.codes import Codes
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE


@final
class Reader:
    """An SAE whose weights stay as they are. Its codes are those of `SAE.encode` to the rounding of float32.

    TopK SAEs are encoded by `Backend.topk`, which finds the k largest pre-activations without writing all of them out in float32;
    other kinds, and TopK SAEs that weigh latents by their decoder norms, by the SAE itself.
    """

    def __init__(self, sae: SAE, backend: Backend) -> None:
        """Read `sae` on the device where it lies, which must be that of the backend."""
        self.sae, self._backend = sae, backend
        by_k = isinstance(sae, TopKSAE) and not sae.config.decoder_norm
        self._encoder = backend.encoder(sae.W_enc.detach()) if by_k else None

    def encode(self, x: Float[Tensor, "row d_model"]) -> Codes:
        """Codes of rows in original units, on any number of rows."""
        sae = self.sae
        if self._encoder is None or not isinstance(sae, TopKSAE):
            return sae.encode(x)
        centred, config = sae.centred(sae.normalised(x).rows), sae.config
        codes = self._backend.topk(centred, self._encoder, sae.b_enc.detach(), config.k, config.keep == "absolute", "fp32")
        return codes._replace(values=codes.values.relu()) if config.keep == "relu" else codes
