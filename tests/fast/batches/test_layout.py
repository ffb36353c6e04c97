import numpy as np
import pytest
import torch

from tunesmith.errors import DataError
from tunesmith.fast.batches.layout import buckets_of, flatten, row_multiple


def test_flatten_shifts_targets_and_drops_the_last_token():
    documents = [(np.array([0, 5, 0]), None), (np.array([0, 7, 8, 9, 0]), np.array([True, False, True, True, True]))]
    batch = flatten(documents)
    assert batch.order == (1, 0)
    assert batch.lengths == (4, 2)
    assert batch.input_ids.tolist() == [0, 7, 8, 9, 0, 5]
    assert batch.targets.tolist() == [-100, 8, 9, 0, 5, 0]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 4, 6]
    assert batch.cu_seqlens.dtype == torch.int32
    assert (batch.num_targets, batch.num_tokens, batch.max_length) == (5, 6, 4)
    assert batch.target_rows.tolist() == [1, 2, 3, 4, 5]


def test_document_sums_are_in_the_callers_order():
    batch = flatten([(np.arange(3), None), (np.arange(5), None), (np.arange(2), None)])
    assert batch.document_sums(torch.ones(batch.num_targets)).tolist() == [2, 4, 1]


def test_document_without_targets_sums_to_zero():
    batch = flatten([(np.arange(3), np.zeros(3, bool)), (np.arange(5), None)])
    assert batch.document_sums(torch.ones(batch.num_targets)).tolist() == [0, 4]


@pytest.mark.parametrize("documents", [[], [(np.array([0]), None)]], ids=["none", "one-token"])
def test_what_cannot_be_fed_is_refused(documents):
    with pytest.raises(DataError, match="flatten"):
        flatten(documents)


def test_buckets_cover_every_row_once_and_one_long_document_pads_no_short_one():
    lengths = (400, 40, 39, 38, 30, 30, 12, 3, 2, 1)
    buckets = buckets_of(lengths)
    assert [bucket.begin for bucket in buckets[1:]] == [bucket.end for bucket in buckets[:-1]]
    assert (buckets[0].begin, buckets[-1].end) == (0, sum(lengths))
    assert sum(bucket.num_documents for bucket in buckets) == len(lengths)
    padded = sum(bucket.num_documents * bucket.length for bucket in buckets)
    assert padded < 1.2 * sum(lengths)
    for bucket in buckets:
        if bucket.rows is None:
            assert bucket.num_documents * bucket.length == bucket.end - bucket.begin
        else:
            assert torch.equal(bucket.rows[bucket.slots], torch.arange(bucket.end - bucket.begin))


def test_indices_are_built_once():
    batch = flatten([(np.arange(9), None), (np.arange(4), np.arange(4) % 2 == 0)])
    assert batch.buckets is batch.buckets
    assert batch.target_rows is batch.target_rows
    assert batch.to("cpu") is batch


def test_rows_are_filled_up_by_a_document_that_is_never_a_target():
    documents = [(np.arange(7), None), (np.arange(12), None)]
    plain, filled = flatten(documents), flatten(documents, 32)
    assert (plain.num_tokens, filled.num_tokens) == (17, 32)
    assert filled.num_targets == plain.num_targets == 17
    assert plain.document_sums(torch.ones(17)).tolist() == [6, 11]
    assert filled.document_sums(torch.ones(17)).tolist() == [6, 11, 0]
    assert flatten(documents, 17).num_tokens == 17


def test_bfloat16_on_a_processor_wants_few_numbers_of_rows():
    cpu = torch.device("cpu")
    assert row_multiple(cpu) == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert row_multiple(cpu) == 32
        assert row_multiple(torch.device("cuda")) == 1
