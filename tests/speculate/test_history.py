"""What the gateway answered is kept for mining, whether it ran early or not."""

from pathlib import Path

from side_house import READ, SESSION, TENANT, FakeTools, check, house, until

from sglang_paste.mine.read import Reader


def test_every_confirmed_call_of_a_known_session_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            run = await home.early("read", "a")
            run.finish("text of a")
            await until(lambda: home.count("paste_tool_seconds_count") or None)
            assert home.call("read", "a").ready() is not None
            await until(lambda: home.learning.confirmed or None)
            [session] = Reader([tmp_path / "journal.sqlite"])
            assert (session.session_id, session.tenant) == (SESSION, TENANT)
            [call], [result] = (session.turns[0].tool_calls, session.turns[1].tool_results)
            assert (call.name, result.content, result.is_error) == ("read", "text of a", False)

    check(main)
