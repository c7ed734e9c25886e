"""The command line: `nextchar corpus add FILE`, `train`, `jobs`, `models`, `complete`, `score` and others.

Each command reads as: parse, one call of the client, show. Standard output has the results and nothing
else; what is said on the side goes to standard error.
"""

import hashlib
import sys
import tempfile
import unicodedata
import webbrowser
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from nextchar.answers import FINAL_STATUSES, Corpus, Job, Model
from nextchar.cli import anomalies, live, report, scores
from nextchar.cli.render import (
    bits,
    moment,
    print_fields,
    print_table,
    size,
    visible,
    whole,
)
from nextchar.cli.repl import write_together
from nextchar.cli.service import add_service_commands
from nextchar.cli.session import Session, command, fail
from nextchar.cli.watch import watch

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Train character models and use them."
)
corpus_app = typer.Typer(no_args_is_help=True, help="Upload texts and look at them.")
jobs_app = typer.Typer(invoke_without_command=True, help="List training jobs, or look after one.")
models_app = typer.Typer(invoke_without_command=True, help="List models, or look after one.")
app.add_typer(corpus_app, name="corpus")
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")
add_service_commands(app)


class Preset(StrEnum):
    """The networks and recipes to start from."""

    TINY = "tiny"
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Alphabet(StrEnum):
    """What a character is."""

    CHARACTERS = "characters"
    BYTES = "bytes"


class Until(StrEnum):
    """What else may end a completion."""

    WORD = "word"
    LINE = "line"
    CONFIDENCE = "confidence"


MASK_NAMES = ("timestamp", "date", "uuid", "ip", "hex", "numbers", "long_numbers", "digits")

CorpusRef = Annotated[str, typer.Argument(metavar="CORPUS", help="Its name or id.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id.")]
ModelRef = Annotated[str, typer.Argument(metavar="MODEL", help="name, or name@version.")]
Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="[PROMPT]", help="Left out: standard input, less one newline at its end.", show_default=False
    ),
]


def main() -> None:
    """Run the command that the arguments name."""
    app()


@app.command()
@command
def status(session: Session) -> None:
    """Say whether the service is ready and what it is busy with."""
    answer = session.client.ready()
    if session.as_json:
        session.json(answer)
        return
    busy = [job for job in session.client.jobs() if job["status"] not in FINAL_STATUSES]
    session.out.print(f"{session.client.server} is {answer['status']}", soft_wrap=True)
    for job in busy:
        session.out.print(Text(visible(f"{job['id']}  {job['name']}  {_state(job)}")), soft_wrap=True)


# Corpora


@corpus_app.command("add")
@command
def corpus_add(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A UTF-8 text; - is standard input.")],
    name: Annotated[
        str | None,
        typer.Option(help="What to call it; taken from the file's name if left out.", show_default=False),
    ] = None,
    as_bytes: Annotated[
        bool, typer.Option("--bytes", help="It is no UTF-8 text: take each byte as a character.")
    ] = False,
) -> None:
    """Upload a text. The same bytes are the same corpus, whatever they are called."""
    encoding = "bytes" if as_bytes else None
    if str(file) == "-":
        corpus = session.client.add_corpus(sys.stdin.buffer, name=name, encoding=encoding)
    else:
        name = name if name is not None else name_of(file)
        with file.open("rb") as text:
            corpus = session.client.add_corpus(text, name=name, encoding=encoding)
    if session.as_json:
        session.json(corpus)
        return
    _print_corpus(session, corpus)


@corpus_app.command("list")
@command
def corpus_list(session: Session) -> None:
    """List all texts, newest first."""
    corpora = list(session.client.corpora())
    if session.as_json:
        session.json({"object": "list", "data": corpora})
        return
    rows = [
        (
            c["name"] or "",
            c["id"],
            whole(c["characters"]),
            whole(c["distinct_characters"]),
            moment(c["created_at"]),
        )
        for c in corpora
    ]
    print_table(session.out, ("name", "id", "characters", "distinct", "added"), rows)
    if not rows:
        session.say("there is no corpus yet; add one with `nextchar corpus add FILE`")


@corpus_app.command("show")
@command
def corpus_show(session: Session, corpus: CorpusRef) -> None:
    """Show what is known of a text, and how it begins."""
    found = session.client.corpus(corpus)
    if session.as_json:
        session.json(found)
        return
    _print_corpus(session, found)
    if session.out.is_terminal:
        session.out.print()
        session.out.print(Text(visible(found["sample"])), style="dim")


@corpus_app.command("rm")
@command
def corpus_rm(session: Session, corpus: CorpusRef) -> None:
    """Delete a text. Models that were trained on it stay."""
    _deleted(session, session.client.delete_corpus(corpus))


def name_of(file: Path) -> str | None:
    """Return a corpus name made from a file's name; None when nothing usable is left of it.

    >>> name_of(Path("My notes (2).txt")), name_of(Path("…"))
    ('My-notes-2', None)
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else " " for c in file.stem)
    return "-".join(kept.split()).strip("._-")[:64] or None


def _print_corpus(session: Session, corpus: Corpus) -> None:
    fields = [
        ("name", corpus["name"] or "–"),
        ("id", corpus["id"]),
        (
            "characters",
            f"{whole(corpus['characters'])}, {whole(corpus['distinct_characters'])} of them distinct",
        ),
        ("lines", f"{whole(corpus['lines'])}, the longest of {whole(corpus['longest_line'])} characters"),
        ("size", size(corpus["bytes"])),
        ("added", moment(corpus["created_at"])),
    ]
    if corpus.get("suggested_masks"):
        fields.append(("a log", f"masked when trained on: {', '.join(corpus['suggested_masks'])}"))
    print_fields(session.out, fields + [("warning", warning) for warning in corpus["warnings"]])


# Jobs


@app.command()
@command
def train(
    session: Session,
    corpus: CorpusRef,
    name: Annotated[str, typer.Option(help="What the model will be called; each job adds a version.")],
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A network of the lecture notes, as nth_char; a wrong name is answered with all of them."
            " Default: stateful_lstm.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(help="Network and recipe to start from. Default: small.", show_default=False),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Train for so long. Default: 60.", show_default=False)
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Or for so many passes over the text.")] = None,
    steps: Annotated[int | None, typer.Option(help="Or for so many steps of the optimizer.")] = None,
    layers: Annotated[int | None, typer.Option(help="Stacked LSTM layers.")] = None,
    units: Annotated[int | None, typer.Option(help="Hidden units of each layer.")] = None,
    embedding: Annotated[int | None, typer.Option(help="Numbers in a character's embedding.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of each layer's output dropped.")] = None,
    context: Annotated[int | None, typer.Option(help="Characters that a window model sees.")] = None,
    rows: Annotated[int | None, typer.Option(help="Parallel streams the text is cut into.")] = None,
    window: Annotated[int | None, typer.Option(help="Characters of back-propagation through time.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of the schedule.")] = None,
    validation_fraction: Annotated[
        float | None, typer.Option(help="Share of the text held out at its end.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same model.")] = None,
    start_from: Annotated[
        str | None, typer.Option(help="A model whose weights and characters to begin with.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Share of the text whose characters are known, the rarest not.")
    ] = None,
    alphabet: Annotated[Alphabet | None, typer.Option(help="What a character is.")] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MASKS",
            help="What to replace by a placeholder, as timestamp,ip,long_numbers, or an RE2 expression;"
            " may be given again. none: nothing. Default: what the service suggests, if the text is a log.",
            show_default=False,
        ),
    ] = None,
    mix: Annotated[
        str | None, typer.Option(metavar="CORPUS", help="A second text in a share of each batch's rows.")
    ] = None,
    mix_fraction: Annotated[float | None, typer.Option(help="That share. Default: a quarter.")] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What should follow in it is what this model expects.")
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="The teacher's distribution (default), sampled or argmax.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Watch it train.")] = True,
) -> None:
    """Train a model on a text, and watch it learn.

    Ctrl-C leaves the view; the training goes on.
    """
    budget = _given(seconds=seconds, epochs=epochs, steps=steps)
    if len(budget) > 1:
        raise typer.BadParameter("give at most one of --seconds, --epochs and --steps")
    request: dict[str, Any] = {"corpus": corpus, "name": name}
    request |= _given(architecture=architecture, preset=preset and preset.value)
    request |= _given(validation_fraction=validation_fraction, seed=seed)
    request |= _given(start_from=start_from, coverage=coverage, alphabet=alphabet and alphabet.value)
    for part, changes in (
        ("budget", budget),
        (
            "network",
            _given(layers=layers, units=units, embedding=embedding, dropout=dropout, context=context),
        ),
        ("training", _given(rows=rows, window=window, learning_rate=learning_rate)),
    ):
        if changes:
            request[part] = changes
    if masks:
        request["masks"] = masks_of(masks)
        _hint_at_unknown_names(session, request["masks"])
    mixing = _given(corpus=mix, fraction=mix_fraction, teacher=teacher, targets=targets)
    if mixing and not mix:
        raise typer.BadParameter("--teacher, --targets and --mix-fraction say how a --mix corpus is used")
    if mixing:
        request["mix"] = mixing
    job = session.client.create_job(request)
    if follow:
        _follow(session, job["id"])
    elif session.as_json:
        session.json(job)
    else:
        session.out.print(job["id"])
        if sentence := job.get("masked_by_default"):
            session.say(sentence)


def masks_of(given: Sequence[str]) -> list[str]:
    """Return the masks that options name: each a name, names with commas between, or an expression.

    >>> masks_of(["timestamp,ip", "id=[a-z]{3,5}"]), masks_of(["none"])
    (['timestamp', 'ip', 'id=[a-z]{3,5}'], [])
    """
    found = []
    for one in given:
        names = one.split(",")
        found += names if all(map(_is_word, names)) else [one]
    return [] if found == ["none"] else found


def _hint_at_unknown_names(session: Session, masks: Sequence[str]) -> None:
    for mask in masks:
        if _is_word(mask) and mask not in MASK_NAMES:
            session.say(
                f"{mask!r} is not the name of a mask, so it is used as an expression and masks this word;"
                f" the names are {', '.join(MASK_NAMES)}"
            )


def _is_word(mask: str) -> bool:
    return mask.replace("_", "").isalpha()


@jobs_app.callback()
@command
def jobs(session: Session, context: typer.Context) -> None:
    """List training jobs, newest first, or look after one."""
    if context.invoked_subcommand is not None:
        return
    found = list(session.client.jobs())
    if session.as_json:
        session.json({"object": "list", "data": found})
        return
    rows = [(job["id"], job["name"], _state(job), _measured(job), moment(job["created_at"])) for job in found]
    print_table(session.out, ("id", "name", "state", "bits/char", "asked for"), rows)
    if not rows:
        session.say("there is no job yet; start one with `nextchar train CORPUS --name NAME`")


@jobs_app.command("show")
@command
def jobs_show(session: Session, job: JobId) -> None:
    """Show where a job stands."""
    _print_job(session, session.client.job(job))


@jobs_app.command("follow")
@command
def jobs_follow(session: Session, job: JobId) -> None:
    """Watch a job until it is over. Ctrl-C leaves the view; the training goes on."""
    _follow(session, job)


@jobs_app.command("cancel")
@command
def jobs_cancel(
    session: Session,
    job: JobId,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="Publish the best model so far before it ends.")
    ] = False,
) -> None:
    """End a job without a model, or with the best so far."""
    _asked(session, session.client.cancel_job(job, keep_best=keep_best), "end")


@jobs_app.command("pause")
@command
def jobs_pause(session: Session, job: JobId) -> None:
    """Stop a job at a checkpoint."""
    _asked(session, session.client.pause_job(job), "pause")


@jobs_app.command("resume")
@command
def jobs_resume(session: Session, job: JobId) -> None:
    """Queue a paused or failed job again; it goes on from its checkpoint."""
    _asked(session, session.client.resume_job(job), "resume")


def _print_events(session: Session, job_id: str) -> Job:
    job = session.client.job(job_id)
    for update in watch(session.client, job_id):
        if update.event:
            session.json(update.event, lines=True)
        job = update.job or job
    session.json(job, lines=True)
    return job


def _follow(session: Session, job_id: str) -> None:
    try:
        if session.as_json:
            job = _print_events(session, job_id)
        else:
            job = live.follow(session.client, job_id, session.out)
    except KeyboardInterrupt:
        session.say(f"the training goes on; see it again with `nextchar jobs follow {job_id}`")
        raise
    match job["status"]:
        case "succeeded" if not session.as_json:
            session.out.print()
            made = live.outcome(session.client, job)
            session.out.print(made, soft_wrap=not session.out.is_terminal)
            session.say(f'try it: nextchar complete {job["model"]} "…"')
        case "succeeded":
            pass
        case "failed" if job["error"]:
            raise fail(
                f"the job failed ({job['error']['code']}): {job['error']['message']};"
                f" try again from its checkpoint with `nextchar jobs resume {job_id}`"
            )
        case "paused" if reason := job.get("pause_reason"):
            raise fail(
                f"the job is paused ({reason['code']}): {reason['message']};"
                f" have it tried at once with `nextchar jobs resume {job_id}`"
            )
        case "paused":
            raise fail(f"the job is paused; go on with `nextchar jobs resume {job_id}`")
        case other if job["model"]:
            session.say(f"the job ended as {other}; its best model so far is {job['model']}")
        case other:
            raise fail(f"the job ended as {other}")


def _asked(session: Session, job: Job, what: str) -> None:
    if session.as_json:
        session.json(job)
    elif job["status"] == "running":
        session.out.print(f"{job['id']} has been asked to {what} and will at its next step")
    else:
        session.out.print(f"{job['id']} is {job['status']}")


def _print_job(session: Session, job: Job) -> None:
    if session.as_json:
        session.json(job)
        return
    network, training = job["network"], job["training"]
    budget = next((f"{v:g} {k}" for k, v in training["budget"].items() if v is not None), "–")
    fields = [
        ("id", job["id"]),
        ("name", job["name"]),
        ("state", _state(job)),
        ("corpus", job["corpus"]),
        ("network", f"{network['architecture']}, {network['layers']} x {network['units']} units"),
        ("budget", budget),
        ("masked", ", ".join(visible(mask, inline=True) for mask in job.get("masks", ())) or "nothing"),
        ("asked for", moment(job["created_at"])),
    ]
    progress = job["progress"] or {}
    if progress.get("step") is not None:
        fields += [
            ("step", f"{whole(progress['step'])} of {whole(progress.get('steps'))}"),
            ("train", f"{bits(progress.get('train_bits_per_character'))} bits per character"),
            ("validation", f"{bits(progress.get('validation_bits_per_character'))} bits per character"),
        ]
    if job["model"]:
        fields.append(("model", job["model"]))
    if job["error"]:
        fields.append(("error", f"{job['error']['code']}: {job['error']['message']}"))
    if reason := job.get("pause_reason"):
        fields.append(("paused", f"{reason['code']}: {reason['message']}"))
    if waiting := progress.get("waiting_for_storage"):
        fields.append(("waiting", waiting))
    print_fields(session.out, fields)


def _state(job: Job) -> str:
    progress = job["progress"] or {}
    step, steps = progress.get("step"), progress.get("steps")
    match job["status"]:
        case "running" if progress.get("waiting_for_storage"):
            return "running, waiting for storage"
        case "running" if step is not None and steps:
            return f"running, {step / steps:.0%}"
        case "queued" if job["queue_position"]:
            return f"queued, number {job['queue_position']}"
    return job["status"]


def _measured(job: Job) -> str:
    return bits((job["progress"] or {}).get("validation_bits_per_character"))


# Models


@models_app.callback()
@command
def models(session: Session, context: typer.Context) -> None:
    """List models, newest first, or look after one."""
    if context.invoked_subcommand is not None:
        return
    found = list(session.client.models())
    damaged = session.client.damaged_models()
    if session.as_json:
        session.json({"object": "list", "data": found, "damaged": damaged})
        return
    rows = [
        (
            m["id"],
            f"{m['network']['layers']} x {m['network']['units']}",
            whole(m["parameters"]),
            moment(m["created_at"]),
        )
        for m in found
    ]
    print_table(session.out, ("model", "network", "parameters", "trained"), rows)
    for model in damaged:
        restore = "restore its card from a backup, or " if model["code"] == "model_damaged" else ""
        session.say(
            f"{model['id']} cannot be used: {model['message']}; {restore}delete it with"
            f" `nextchar models rm {model['id']}`"
        )
    if not rows:
        session.say("there is no model yet; train one with `nextchar train CORPUS --name NAME`")


@models_app.command("show")
@command
def models_show(session: Session, model: ModelRef) -> None:
    """Show what a model is and how good it is."""
    found = session.client.model(model)
    if session.as_json:
        session.json(found)
        return
    network = found["network"]
    fields = [
        ("model", found["id"]),
        ("network", f"{network['architecture']}, {network['layers']} x {network['units']} units"),
        ("parameters", whole(found["parameters"])),
        ("characters", f"{len(found['characters'])} known"),
        ("corpus", found["corpus"] or "–"),
        ("job", found["job"] or "–"),
        ("trained", moment(found["created_at"])),
    ]
    if (measured := found["report"].get("validation_bits_per_character")) is not None:
        fields.append(("validation", f"{bits(measured)} bits per character"))
    fields += [("file", f"{name}, {size(file['bytes'])}") for name, file in found["files"].items()]
    print_fields(session.out, fields)


@models_app.command("rm")
@command
def models_rm(session: Session, model: ModelRef) -> None:
    """Delete one version of a model: the newest, for a bare name."""
    _deleted(session, session.client.delete_model(model))


@models_app.command("download")
@command
def models_download(
    session: Session,
    model: ModelRef,
    to: Annotated[
        Path | None,
        typer.Option(help="The folder to make; left out: the model's name@version.", show_default=False),
    ] = None,
) -> None:
    """Download a model: its card, its .keras file and its ONNX graph."""
    found = session.client.model(model)
    folder = to or Path(found["id"])
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("model.json", *found["files"]):
        _save(session, found, file, folder)
    if session.as_json:
        session.json({**found, "folder": str(folder)})
    else:
        session.out.print(Text(visible(str(folder))), soft_wrap=True)


@app.command("report")
@command
def report_command(
    session: Session,
    model: ModelRef,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the report to a page instead.", show_default=False),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser instead.")] = False,
) -> None:
    """Show how a training run went: curves, baselines, what the model copies, what it cost."""
    if html or open_:
        written = html or Path(tempfile.mkdtemp(prefix="nextchar-")) / "report.html"
        page = b"".join(session.client.report_file(model, "html"))
        written.write_bytes(page)
        if session.as_json:
            session.json({"file": str(written)})
        else:
            session.out.print(Text(visible(str(written))), soft_wrap=True)
        if open_ and not webbrowser.open(written.resolve().as_uri()):
            session.say("no browser could be started; open the file named above")
        return
    told = session.client.report(model)
    if session.as_json:
        session.json(told)
        return
    report.show(session.out, told)


def _save(session: Session, model: Model, file: str, folder: Path) -> None:
    """Download one file under another name, check its hash, and only then give it its own."""
    if file != Path(file).name:
        raise fail(f"the model names a file {file!r}, which is a path; nothing of it was written")
    digest = hashlib.sha256()
    partial = folder / f"{file}.partial"
    try:
        with partial.open("wb") as out:
            for piece in session.client.download(model["id"], file):
                digest.update(piece)
                out.write(piece)
        wanted = model["files"].get(file)
        if wanted and digest.hexdigest() != wanted["sha256"]:
            raise fail(f"{file} came damaged (its hash differs); download it again")
        partial.replace(folder / file)
    finally:
        partial.unlink(missing_ok=True)


@app.command("open")
@command
def open_console(session: Session) -> None:
    """Open the service's console in your browser; its address is printed too, for another machine's."""
    url = f"{session.client.server}/"
    session.client.ready()  # or a window that stays empty would be all there is
    opened = webbrowser.open(url)
    if session.as_json:
        session.json({"url": url, "opened": opened})
        return
    session.out.print(Text(url), soft_wrap=True)
    if not opened:
        session.say("there is no browser here; open the address where there is one")


# Completions and scores


@app.command()
@command
def complete(
    session: Session,
    model: ModelRef,
    prompt: Prompt = None,
    max_characters: Annotated[int | None, typer.Option(help="The longest completion. Default: 40.")] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="How many completions. Default: 1.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the likeliest character each time. Default: 1.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k likeliest.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Among the likeliest that reach this probability.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Among those this share as likely as the likeliest.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given again.")] = None,
    until: Annotated[Until | None, typer.Option(help="What else ends it.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show characters as they come.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Write by turns, a line each; so without a prompt.")
    ] = False,
) -> None:
    """Go on from a prompt; in a terminal without one, write a text by turns.

    In a terminal the prompt is repeated, dimmed; through a pipe only the completions come, one after another.
    """
    options = _given(
        max_characters=max_characters,
        n=n,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop or None,
        until=until.value if until else None,
    )
    if interactive or (prompt is None and sys.stdin.isatty()):
        if prompt is not None or options.get("n", 1) != 1:
            raise typer.BadParameter(
                "--interactive takes its text line by line; leave out the prompt and --n"
            )
        write_together(session, model, options)
        return
    text = _prompt(prompt)
    if stream:
        _stream(session, model, text, options)
        return
    answer = session.client.complete(model, text, **options)
    if session.as_json:
        session.json(answer)
        return
    for choice in answer["completions"]:
        if session.out.is_terminal:
            shown = Text(visible(text[-200:]), style="dim")
            shown.append(visible(choice["text"]), style="not dim bold")
            session.out.print(shown, soft_wrap=True)
        else:
            print(choice["text"], file=session.out.file)
    _warn_of_unknown(session, answer["unknown_characters"])


def _stream(session: Session, model: str, prompt: str, options: dict[str, Any]) -> None:
    if options.get("n", 1) != 1 and not session.as_json:
        raise typer.BadParameter("--stream shows one completion; leave out --n or take --json")
    in_terminal = session.out.is_terminal and not session.as_json
    if in_terminal:
        session.out.print(Text(visible(prompt[-200:]), style="dim"), end="", soft_wrap=True)
    for event in session.client.stream(model, prompt, **options):
        if session.as_json:
            session.json(event, lines=True)
        elif event["event"] == "piece":
            text = event["data"]["text"]
            if in_terminal:
                session.out.print(Text(visible(text), style="bold"), end="", soft_wrap=True)
            else:
                print(text, end="", file=session.out.file)
            session.out.file.flush()
        elif event["event"] == "done":
            print(file=session.out.file)
            _warn_of_unknown(session, event["data"]["unknown_characters"])


@app.command("next")
@command
def next_character(
    session: Session,
    model: ModelRef,
    prompt: Prompt = None,
    top: Annotated[int, typer.Option(help="How many characters.")] = 10,
    temperature: Annotated[float, typer.Option(help="Divides the logits.")] = 1.0,
) -> None:
    """Show what the next character may be."""
    answer = session.client.next(model, _prompt(prompt), top=top, temperature=temperature)
    if session.as_json:
        session.json(answer)
        return
    if not session.out.is_terminal:
        for candidate in answer["candidates"]:
            print(
                visible(candidate["character"], inline=True), f"{candidate['probability']:.6f}",
                sep="\t", file=session.out.file,
            )  # fmt: skip
    else:
        session.out.print(scores.distribution(answer, session.out))
    _warn_of_unknown(session, answer["unknown_characters"])


@app.command()
@command
def score(
    session: Session,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [FILE]…",
            help="A model and a text to draw; with --model, files of lines. Left out or -: standard input.",
            show_default=False,
        ),
    ] = None,
    watched: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="Print the odd lines as they come, as grep does."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show all lines, in order.")] = False,
    by_line: Annotated[
        bool, typer.Option("--lines", help="Of a text: score every line by itself, not as one text.")
    ] = False,
    top: Annotated[
        int, typer.Option(help="Of a long text: show so many lines, the most surprising first.")
    ] = 20,
    false_alarms: Annotated[
        float | None, typer.Option(help="With --model: the share of normal lines that may be flagged.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --model: the normal lines to compare with.")
    ] = None,
    context: Annotated[
        anomalies.Context | None, typer.Option(help="With --model: read each line after those before it.")
    ] = None,
    stream_id: Annotated[
        str | None, typer.Option(help="With --context stream: go on where the stream of this name ended.")
    ] = None,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="With --context stream: learn from the lines while reading them.")
    ] = False,
    expected: Annotated[
        int | None,
        typer.Option(min=1, max=20, help="With --model: tell so many of the likeliest at an odd place."),
    ] = None,
    patience: Annotated[
        float | None, typer.Option(help="With --model: try so many seconds to get back to a lost service.")
    ] = None,
) -> None:
    """Show how surprised a model is by a text; or, with --model, print the odd lines of a log as they come.

    A text of more lines than fit is shown by its most surprising lines. With --model, the exit status is
    grep's: 0 if a line was flagged, 1 if none was, 2 if something went wrong.
    """
    given = _given(
        false_alarms=false_alarms,
        calibration=calibration,
        context=context,
        stream_id=stream_id,
        expected=expected,
        patience_s=patience,
    ) | ({"adapt": True} if adapt else {})
    words = words or []
    if watched is not None:
        if by_line:
            raise typer.BadParameter("--lines is for a text; with --model everything is lines")
        anomalies.watch(session, watched, words or ["-"], anomalies.Watch(everything=everything, **given))
        return
    if not words:
        raise typer.BadParameter("name a model: MODEL [FILE] draws a text, --model MODEL prints odd lines")
    if given or len(words) > 2:
        raise typer.BadParameter(
            f"that is for odd lines: nextchar score --model {words[0]} {' '.join(words[1:])}".rstrip()
        )
    _draw(session, words[0], Path(words[1]) if words[1:] else None, by_line, None if everything else top)


def _draw(session: Session, model: str, file: Path | None, by_line: bool, top: int | None) -> None:
    text = unicodedata.normalize("NFC", _read_text(file))
    lines = scores.split_lines(text)
    if not lines:
        raise fail("there is nothing to score; the text is empty")
    answer = session.client.score(model, [line.removesuffix("\n") for line in lines] if by_line else text)
    if session.as_json:
        session.json(answer)
        return
    scores.show(session.out, answer, lines, top=top)
    _warn_of_unknown(session, answer["unknown_characters"])


app.command("calibrate")(anomalies.calibrate)
app.command("evaluate")(anomalies.evaluate)


def _read_text(file: Path | None) -> str:
    raw = sys.stdin.buffer.read() if file is None or str(file) == "-" else file.read_bytes()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise fail(f"the text is not UTF-8: byte {raw[error.start]:#04x} at offset {error.start}") from None


def _prompt(given: str | None) -> str:
    if given is not None:
        return given
    # At a terminal nobody would know that something is waited for.
    return "" if sys.stdin.isatty() else _read_text(None).removesuffix("\n")


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given; the service knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def _deleted(session: Session, answer: dict[str, Any]) -> None:
    if session.as_json:
        session.json(answer)
    else:
        session.out.print(Text(visible(f"deleted {answer['id']}")), soft_wrap=True)


def _warn_of_unknown(session: Session, characters: Sequence[str]) -> None:
    if characters:
        shown = " ".join(visible(c, inline=True) for c in characters[:20])
        more = f" and {len(characters) - 20} more" if len(characters) > 20 else ""
        session.say(f"the model has never seen: {shown}{more}")
