"""`certify denoise`: train a denoiser before a frozen classifier, and look at what it does."""

from pathlib import Path
from typing import Annotated

import typer

from certify.cli import options as o
from certify.cli.common import (
    DataRootOption,
    JsonOption,
    QuietOption,
    TrustPickleOption,
    console,
    err_console,
    print_json,
)

app = typer.Typer(
    help=(
        "Denoised smoothing: make a classifier that was never trained with noise stand it.\n\n"
        "[bold]certify denoise train[/bold] trains a denoiser before a frozen classifier (or before surrogates of one that "
        "cannot be differentiated); [bold]certify run MODEL --denoiser DIR[/bold] certifies the pair; "
        "[bold]certify denoise show[/bold] draws what it does."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command("train")
def train(
    *,
    data: Annotated[str, typer.Option("--data", help="Data set; its training part is used.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the denoiser.")],
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            "--classifier",
            help="MODEL to freeze behind the denoiser; several times for surrogates, which take turns batch by batch.",
            show_default=False,
        ),
    ] = None,
    denoiser: Annotated[
        str, typer.Option("--denoiser", help="dncnn, dncnn-wide, dncnn-small, memnet or unet.")
    ] = "dncnn-small",
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth",
            help="dncnn...: convolutions (default: 17, the paper's; dncnn-small 6).",
            show_default=False,
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            help="Channels inside (default: the paper's 64, dncnn-wide 128; dncnn-small and unet 32).",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            help="mse (pixels), stability (the classifier's own labels) or classification (the data's labels).",
        ),
    ] = "mse",
    mse_weight: Annotated[
        float, typer.Option("--mse-weight", help="stability: add the squared error, so weighted.")
    ] = 0.0,
    start: Annotated[
        Path | None,
        typer.Option(
            "--start", help="Go on from this trained denoiser (MSE first, then fine-tune).", show_default=False
        ),
    ] = None,
    noise: Annotated[str, typer.Option("--noise", help=f"Law of the noise: {o.law_names()}.")] = "gaussian",
    sigma: Annotated[
        float | None,
        typer.Option("--sigma", help="Per-coordinate standard deviation, pixels in [0, 1].", show_default=False),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the training images.")] = 5,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images in a step.")] = 128,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate (Adam).")] = 1e-3,
    schedule: Annotated[str, typer.Option("--schedule", help="onecycle, step or cosine.")] = "onecycle",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, or bf16 (autocast): faster where the hardware has it.")
    ] = "fp32",
    maximum: Annotated[
        int | None, typer.Option("--max", help="Train on at most this many images.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The training is a function of it.")] = 0,
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda or cuda:N (default: CUDA if there).", show_default=False),
    ] = None,
    data_root: DataRootOption = None,
    trust_pickle: TrustPickleOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a denoiser in the folder.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a denoiser before a frozen classifier; interrupt it and repeat the same line to go on.

    [bold]Examples[/bold]

    certify denoise train --data mnist --sigma 0.5 --denoiser unet --out denoisers/mse

    certify denoise train --data cifar10 --sigma 0.25 --denoiser dncnn --depth 10 --width 48 --out denoisers/mine

    certify denoise train --data mnist --sigma 0.5 --denoiser unet --objective stability --classifier models/plain
    --start denoisers/mse --out denoisers/stability
    """
    import sys

    from certify.allocator import tune_allocator
    from certify.denoising.job import DenoiseOptions, prepare_denoising, train_denoiser
    from certify.laws import law_text
    from certify.setup import pick_device
    from certify.training.progress import watch_training
    from smoothing.training import TrainingConfig

    tune_allocator()
    plan = prepare_denoising(
        DenoiseOptions(
            data=data,
            out=out,
            classifiers=tuple(classifier or ()),
            denoiser=denoiser,
            sizes=(("depth", depth), ("width", width)),
            objective=objective,
            mse_weight=mse_weight,
            start=start,
            noise=noise,
            parameters=(("sigma", sigma),),
            data_root=data_root,
            config=TrainingConfig(
                epochs=epochs,
                batch_size=batch_size,
                optimizer="adam",
                learning_rate=lr,
                weight_decay=1e-4,
                schedule=schedule,
                seed=seed,
                precision=precision,
            ),
            maximum=maximum,
            device=pick_device(device),
            trust_pickle=trust_pickle,
            overwrite=overwrite,
            command=tuple(sys.argv),
        )
    )
    notes = err_console()
    if not quiet:
        notes.print(
            f"denoiser {plan.architecture}, objective {objective}, {len(plan.data.labels):,} images of {data}, "
            f"{law_text(plan.law)}, {len(plan.digests)} frozen classifiers"
        )
    with watch_training(quiet=quiet) as observer:
        path = train_denoiser(plan, on_event=observer.on_event, on_epoch=observer.on_epoch)
    if as_json:
        print_json(
            {
                "out": str(path),
                "denoiser": denoiser,
                "sizes": plan.sizes,
                "sigma": plan.sigma,
                "objective": plan.objective.describe(),
            }
        )
        return
    console().print(f"Denoiser in {path}; next: certify run MODEL --denoiser {out} --data {data} --out DIR")


@app.command("show")
def show(
    denoiser: Annotated[str, typer.Argument(help="Folder of a trained denoiser, or classical:NAME.")],
    *,
    data: Annotated[str, typer.Option("--data", help="Data set; its test part is shown.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write (.png, .pdf, .svg).")] = Path(
        "denoised.png"
    ),
    sigma: Annotated[
        float | None,
        typer.Option("--sigma", help="Noise level (default: the one that it was trained for).", show_default=False),
    ] = None,
    count: Annotated[int, typer.Option("--count", help="How many images.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise.")] = 0,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw clean, noisy and denoised images side by side, with PSNR (dB) and SSIM.

    [bold]Examples[/bold]

    certify denoise show denoisers/mse --data mnist --out mse.png

    certify denoise show classical:non-local-means --data mnist --sigma 0.25
    """
    from dataclasses import asdict

    from certify.denoising.checkpoint import describe_denoiser
    from certify.denoising.show import show_denoiser

    shown = show_denoiser(denoiser, data, out, data_root=data_root, sigma=sigma, count=count, seed=seed)
    if as_json:
        print_json(
            {"out": str(out), "denoiser": describe_denoiser(denoiser), "images": [asdict(entry) for entry in shown]}
        )
        return
    result = console()
    result.print(f"denoiser {describe_denoiser(denoiser)}")
    for entry in shown:
        result.print(
            f"input {entry.index:>6}   noisy {entry.psnr_noisy:5.1f} dB, SSIM {entry.ssim_noisy:.2f}   "
            f"denoised {entry.psnr:5.1f} dB, SSIM {entry.ssim:.2f}"
        )
    result.print(f"picture in {out}")
