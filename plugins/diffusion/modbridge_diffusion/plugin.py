"""What this distribution adds to modbridge."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl

_TINY_PRIOR = {
    "type": "ddpm",
    "denoiser": {"type": "residual_mlp", "width": 32, "num_blocks": 1},
    "timesteps": 50,
    "steps": 60,
    "batch_size": 16,
    "lr": 1e-2,
}


_TINY_LINK = {
    "type": "link_ddpm",
    "denoiser": {"type": "residual_mlp", "width": 32, "num_blocks": 1},
    "timesteps": 50,
    "steps": 60,
    "batch_size": 16,
    "lr": 1e-2,
}


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="prior",
            name="ddpm",
            config="modbridge_diffusion.ddpm_config:DDPMConfig",
            impl="modbridge_diffusion.ddpm:DDPM",
            summary="Diffusion model of where text vectors lie, with the authors' renormalising DDIM sampler.",
            example=_TINY_PRIOR | {"radius": 1.0},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="diffusion_bridge",
            config="modbridge_diffusion.diffusion_bridge_config:DiffusionBridgeConfig",
            impl="modbridge_diffusion.diffusion_bridge:DiffusionBridge",
            summary="Diffusion Bridge (CVPR 2025): source vectors denoised by a prior learnt from text alone.",
            example={
                "type": "diffusion_bridge",
                "prior": _TINY_PRIOR,
                "start_step": 30,
                "num_steps": 3,
                "augment_step": 20,
            },
            importer="modbridge_diffusion.import_weights:command",
        )
    )
    register(
        ComponentSpec(
            kind="prior",
            name="link_ddpm",
            config="modbridge_diffusion.link_ddpm_config:LinkDDPMConfig",
            impl="modbridge_diffusion.link_ddpm:LinkDDPM",
            summary="Diffusion-Link's network: from noised texts and noised source vectors to the texts.",
            example=_TINY_LINK | {"scale": 1.0},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="diffusion_link",
            config="modbridge_diffusion.diffusion_link_config:DiffusionLinkConfig",
            impl="modbridge_diffusion.diffusion_link:DiffusionLink",
            summary="Diffusion-Link (ICASSP 2026): source vectors noised and denoised to texts, learnt from pairs.",
            example={"type": "diffusion_link", "prior": _TINY_LINK, "start_step": 10},
        )
    )
