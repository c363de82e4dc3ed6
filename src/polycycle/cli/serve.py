"""`polycycle serve`: what to type for each engine, or transformers' server at once."""

from typing import Annotated

import typer

from polycycle.cli.app import out, tell, verb
from polycycle.cli.chat import Device, Dtype, Model, Revision
from polycycle.errors import ConfigError


@verb("serve", "Using a model")
def serve(
    model: Model,
    run: Annotated[
        bool, typer.Option("--run", help="Start transformers' OpenAI-compatible server here.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; with --run localhost by default.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="With --run 8000 by default.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    revision: Revision = None,
) -> None:
    """Say how to serve a model: a command for every engine that computes it right.

    An export is served by every engine it is right for, a model in our own format by transformers
    with polycycle: `--run` starts transformers' server, OpenAI-compatible, for any of them.

        polycycle serve runs/greek-and-hungarian/review --run --port 8000
    """
    from polycycle.inference import open_model, run_server, ways_to_serve

    if run:
        host, port = host or "localhost", port or 8000
        tell(
            f"serving {model} at http://{host}:{port}/v1; requests name the model {model!r}. "
            "Ctrl-C ends"
        )
        checkpoint = open_model(model, revision=revision)
        try:
            run_server(checkpoint, host=host, port=port, dtype=dtype, device=device)
        except KeyboardInterrupt:
            tell("the server has stopped")
        return
    if (dtype, device) != ("auto", "auto"):
        raise ConfigError("--dtype and --device are for --run; engines have options of their own")
    for way in ways_to_serve(model, revision=revision, host=host, port=port):
        out.print(f"{way.engine} ({way.known}):")
        out.print(f"    {way.command}")
