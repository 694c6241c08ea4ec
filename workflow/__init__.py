"""The rooms, shelves and hall of the workflow: everything that reads or writes files."""
