from oxyy_proxy.simulator.answers import Usage
from oxyy_proxy.simulator.bill import Bill


def add(bill, billed=True, cost_nusd=10):
    return bill.add(
        request_id="r",
        endpoint="chat",
        model="gpt-5",
        stream=False,
        status=200,
        usage=Usage(8, 2, 4),
        cost_nusd=cost_nusd,
        fault=None,
        billed=billed,
    )


def test_entries_are_numbered_and_summed():
    bill = Bill(lambda: None)
    assert [add(bill).seq, add(bill).seq] == [1, 2]
    assert bill.total_nusd == 20


def test_what_is_not_billed_costs_nothing_and_counts_no_tokens():
    entry = add(Bill(lambda: None), billed=False)
    assert (entry.cost_nusd, entry.input_tokens, entry.cached_input_tokens, entry.output_tokens) == (0, 0, 0, 0)


def test_other_units_are_noted_and_are_zero_where_nothing_is_billed():
    bill = Bill(lambda: None)
    for billed in (True, False):
        bill.add(
            request_id="r",
            endpoint="images",
            model="m",
            stream=False,
            status=200,
            usage=Usage(images=1, video_ms=2, audio_ms=3, characters=4),
            cost_nusd=5,
            fault=None,
            billed=billed,
        )
    assert [(one.images, one.video_ms, one.audio_ms, one.characters) for one in bill.entries] == [
        (1, 2, 3, 4),
        (0, 0, 0, 0),
    ]


def test_since_seq_shows_what_is_new_with_its_own_total():
    bill = Bill(lambda: None)
    add(bill, cost_nusd=1)
    add(bill, cost_nusd=2)
    shown = bill.as_json(since_seq=1)
    assert ([entry["seq"] for entry in shown["entries"]], shown["total_nusd"]) == ([2], 2)


def test_a_cleared_bill_does_not_number_from_one_again():
    bill = Bill(lambda: None)
    add(bill)
    bill.clear()
    assert (bill.total_nusd, add(bill).seq) == (0, 2)


def test_every_change_is_told():
    told = []
    bill = Bill(lambda: told.append(1))
    add(bill)
    bill.clear()
    assert len(told) == 2
