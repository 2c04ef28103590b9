"""`rowspan plan --list`: lists the cards and models that can be planned with by name."""

from __future__ import annotations


def show_names() -> None:
    """Print the catalogs of cards and of model shapes."""
    from rowspan.cli.console_output import print_table
    from rowspan.plan.rigs.model_shapes import known_models
    from rowspan.plan.rigs.quantize import QUANTIZATIONS
    from rowspan.rig.catalog.known_cards import known_cards

    cards = [
        (
            card.name,
            f"{card.memory >> 30} GiB",
            f"{card.bandwidth / 1e9:.0f} GB/s",
            f"{card.tdp:.0f} W",
            f"{card.slots:g}" if card.slots is not None else card.form,
            f"{card.price:,.0f}" if card.price else "-",
            card.unconfirmed,
        )
        for card in known_cards()
    ]
    print_table("Cards", ("NAME", "MEMORY", "BANDWIDTH", "TDP", "SLOTS", "USD", "NOT CERTAIN"), cards)
    models = [
        (
            model.name,
            f"{model.parameters / 1e9:.2f} B",
            str(model.spec.n_layers),
            str(model.spec.context_length),
            ", ".join(model.aliases),
        )
        for model in known_models()
    ]
    print_table("Shapes of models", ("NAME", "PARAMETERS", "LAYERS", "CONTEXT", "ALSO"), models)
    print(f"Quantizations, behind a colon: {', '.join(QUANTIZATIONS)}.")
