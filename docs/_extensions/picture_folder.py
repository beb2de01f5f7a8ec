"""Where the examples of the gallery write to: a temporary folder, and not the checkout."""

from __future__ import annotations

import tempfile


class PictureFolder:
    """What sphinx-gallery puts on an example's command line."""

    def __repr__(self) -> str:  # the same in every build, so that nothing is run again for it
        return "PictureFolder"

    def __call__(self, gallery_conf, script_vars) -> list[str]:
        return [tempfile.mkdtemp(prefix="hs_autoptycho_gallery_")]
