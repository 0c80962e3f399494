"""Names of classes in figures."""
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Fonts for Chinese, Japanese and Korean that systems have. The font of matplotlib has none of these letters.
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
             "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS")


@contextmanager
def names_as_they_are() -> Iterator[None]:
    """In this block matplotlib draws names literally: two `$` make no formula.

    Letters that its own font lacks come from one of `CJK_FONTS`, if one is installed. A letter that no font has is a
    box, without a warning.
    """
    import matplotlib as mpl
    from matplotlib import font_manager
    installed = font_manager.get_font_names()
    families = [*mpl.rcParams["font.family"], *(font for font in CJK_FONTS if font in installed)]
    with mpl.rc_context({"font.family": families, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield
