"""`nextchar status` and `nextchar open`: whether the service is ready, and its console in a browser."""

import webbrowser

from nextchar.cli.jobs import status_of
from nextchar.cli.session import Session, command
from nextchar.types import FINAL_STATUSES


@command
def status(session: Session) -> None:
    """Show whether the service is ready, and its unfinished jobs.

    Example: nextchar status --server http://gpu-box:8000
    """
    response = session.client.ready()
    if session.as_json:
        session.print_json(response)
        return
    unfinished = [job for job in session.client.jobs() if job["status"] not in FINAL_STATUSES]
    session.print_text(f"{session.client.server} is {response['status']}")
    for part in response["degraded"]:
        session.print_text(f"{part['part']}: {part['problem']}; {part['effect']}")
    for job in unfinished:
        session.print_text(f"{job['id']}  {job['name']}  {status_of(job)}")


@command
def open_console(session: Session) -> None:
    """Open the service's console in a browser, and print its address.

    Example: nextchar open
    """
    url = f"{session.client.server}/"
    session.client.ready()  # otherwise a browser would show an empty window
    opened = webbrowser.open(url)
    session.print_result({"url": url, "opened": opened}, url)
    if not opened and not session.as_json:
        session.print_note("there is no browser here; open the address in one")
