"""`holdfast import`."""

import asyncio
from pathlib import Path

import click

from service.cli.options import service_options
from service.replay.client import ClientError, connected


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--job", help="Name of the import; each name is imported once. Default: file name.")
@service_options
def import_stock(file: Path, job: str | None, url: str, api_key: str) -> None:
    """Create the missing stock rows of a CSV file.

    The lines of FILE are sku,location,available[,name]. Existing stock rows stay as they are.
    """
    content = file.read_bytes()

    async def work() -> str:
        async with connected(url, api_key) as client:
            answer = await client.import_stock(job or file.name, content, file.name)
        before = " (this job was done before; nothing changed now)" if answer.replayed else ""
        return f"{answer.body['created']} created, {answer.body['skipped']} skipped{before}"

    try:
        click.echo(asyncio.run(work()))
    except ClientError as error:
        raise click.ClickException(str(error)) from None
