"""What the demo adds: its sources, its metrics and a stand-in encoder, registered as any plugin's."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="source",
            name="drawn_scenes",
            config="modbridge.demo.config:DrawnScenesConfig",
            impl="modbridge.demo.scenes:DrawnScenes",
            summary="made-up pictures of one or two coloured shapes, with captions that mention only part of them",
            example={"count": 8},
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="synthesised_sounds",
            config="modbridge.demo.config:SynthesisedSoundsConfig",
            impl="modbridge.demo.sounds:SynthesisedSounds",
            summary="made-up clips of one or two synthesised sounds, with captions that mention only part of them",
            example={"count": 8},
            requires=("soundfile", "soxr"),
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="placed_shapes",
            config="modbridge.demo.placed_config:PlacedShapesConfig",
            impl="modbridge.demo.placed:PlacedShapes",
            summary="made-up pictures of one large coloured shape, with captions that say in which corner it stands",
            example={"count": 8},
        )
    )
    register(
        ComponentSpec(
            kind="encoder",
            name="named_colours",
            config="modbridge.demo.named_colours_config:NamedColoursConfig",
            impl="modbridge.demo.named_colours:NamedColours",
            summary="which named colours an image shows or a text names; no weights, to try other parts with",
            example={"type": "named_colours"},
        )
    )
    register(
        ComponentSpec(
            kind="metric",
            name="objects_exact",
            config="modbridge.demo.config:ObjectsExactConfig",
            impl="modbridge.demo.objects:ObjectsExact",
            summary="share of captions in which every named object is really in the made-up scene or clip",
        )
    )
    register(
        ComponentSpec(
            kind="metric",
            name="scene_details",
            config="modbridge.demo.config:SceneDetailsConfig",
            impl="modbridge.demo.scene_details:SceneDetails",
            summary="whether the relations and backgrounds that captions of made-up scenes state are true",
        )
    )
    register(
        ComponentSpec(
            kind="metric",
            name="placed_words",
            config="modbridge.demo.placed_config:PlacedWordsConfig",
            impl="modbridge.demo.placed_metrics:PlacedWords",
            summary="whether captions of placed shapes name the colour, the shape and the place that are there",
        )
    )
    register(
        ComponentSpec(
            kind="metric",
            name="placed_pictures",
            config="modbridge.demo.placed_config:PlacedPicturesConfig",
            impl="modbridge.demo.placed_metrics:PlacedPictures",
            summary="whether painted pictures show the colour, the shape and the place that are there, read by rules",
        )
    )
