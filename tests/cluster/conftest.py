"""A cluster of three primaries, for tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.topology import Cluster, cluster


@pytest.fixture(scope="session")
def three_nodes() -> Iterator[Cluster]:
    """Started once; `nodes` empties it."""
    with cluster(3) as running:
        yield running


@pytest.fixture
def nodes(three_nodes: Cluster) -> Cluster:
    """Three primaries without any key."""
    for node in three_nodes.nodes:
        with node.client() as client:
            client.flushall()
    return three_nodes
