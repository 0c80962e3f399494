"""Names of classes in figures."""
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Fonts that systems bring for Chinese, Japanese and Korean; matplotlib's own has none of these letters.
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
             "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS")


@contextmanager
def names_as_they_are() -> Iterator[None]:
    """Within it matplotlib draws what a user has named, letter by letter: no formula between two `$`, and what its own
    font lacks from one of `CJK_FONTS`, where one is installed. A letter that no font has is a box, without a warning.
    """
    import matplotlib as mpl
    from matplotlib import font_manager
    installed = font_manager.get_font_names()
    families = [*mpl.rcParams["font.family"], *(font for font in CJK_FONTS if font in installed)]
    with mpl.rc_context({"font.family": families, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield
