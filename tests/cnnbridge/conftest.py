import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Layers as small as these gain nothing from threads, and lose all where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
