"""The page around the sections: its look, its few lines of script."""

from workflow.report.markup import Html, element, joined

LOOK = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#57606a;--paper:#fff;--line:#d5d9de;--tint:#f5f6f8;--link:#0b61a4;--warn:#b35c00;
--blue:#0072b2}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#a3abb5;--paper:#15181c;--line:#383e46;--tint:#1d2126;--link:#7cb8ea;
--warn:#f0a95b;--blue:#409fdd}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header,footer,.contents{max-width:70rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
h1{font-size:clamp(1.6rem,4vw,2.4rem);line-height:1.15;margin:0 0 .8rem;letter-spacing:-.015em;text-wrap:balance}
h2{font-size:1.4rem;margin:3rem 0 .6rem;padding-top:.9rem;border-top:2px solid var(--ink);letter-spacing:-.01em}
h3{font-size:1.08rem;margin:1.8rem 0 .4rem}h4{font-size:.95rem;margin:1rem 0 .3rem;color:var(--soft)}
p,ul{max-width:48rem}.lead{font-size:1.05rem}
a{color:var(--link)}
.contents,.jump{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;font-size:.9rem}.contents{margin-top:1.2rem}.jump{margin-bottom:.4rem}
.note{border-left:3px solid var(--warn);padding:.35rem .8rem;background:var(--tint);font-size:.92rem}
figure{margin:1.4rem 0 2.2rem}
figcaption p{font-size:.88rem;color:var(--soft);max-width:56rem;margin:0 0 .7rem}
.panels{display:flex;flex-wrap:wrap;gap:.6rem 1.2rem;align-items:flex-start}
.panel{max-width:100%;overflow-x:auto}
svg{display:block;height:auto;font-family:"DejaVu Sans",Verdana,system-ui,sans-serif;
stroke-linejoin:round;stroke-linecap:butt}
.scroll{overflow:auto;width:fit-content;max-width:100%;max-height:32rem;margin:1rem 0;
border:1px solid var(--line);border-radius:4px}
table{border-collapse:collapse;font-size:.84rem;line-height:1.4;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.5rem .7rem;color:var(--soft);font-weight:600}
th,td{padding:.32rem .7rem;text-align:left;white-space:nowrap;border-top:1px solid var(--line)}
td.w{white-space:normal;min-width:18rem}
thead th{position:sticky;top:0;background:var(--tint);font-weight:600;white-space:normal;vertical-align:bottom;min-width:4.6rem}
.n{text-align:right}
tbody tr:hover{background:var(--tint)}
details{margin:.8rem 0;border-top:1px solid var(--line);padding-top:.4rem}
summary{cursor:pointer;font-weight:600;font-size:.95rem}
pre{overflow-x:auto;background:var(--tint);padding:.8rem;border-radius:4px;font-size:.8rem;line-height:1.45}
.small{font-size:.85rem}
.claims{padding-left:1.1rem;font-size:.93rem}.claims li{margin:.35rem 0}
footer{margin:3rem auto 2rem;color:var(--soft);font-size:.85rem}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--paper:#fff;--line:#ccc;--tint:#f6f6f6;--link:#000;--warn:#b35c00;
--blue:#0072b2}body{font-size:10pt}table{font-size:6.5pt}.scroll{max-height:none;overflow:visible}.contents,.jump{display:none}
th,td{white-space:normal;padding:.15rem .35rem}
thead th{position:static}.panel,tr{break-inside:avoid}h2,h3,h4{break-after:avoid}details:not([open]){display:none}}
"""


def page(title: str, lead: Html, sections: list[tuple[str, str, Html]]) -> str:
    """The whole document.

    Args:
        title: heading, and title of the window.
        lead: what stands under the heading.
        sections: (anchor, heading, content), top to bottom.
    """
    contents = element(
        "nav",
        *(element("a", heading, href=f"#{anchor}") for anchor, heading, _ in sections),
        class_="contents",
        aria_label="Contents",
    )
    body = [element("section", element("h2", heading), content, id=anchor) for anchor, heading, content in sections]
    head = element(
        "head", element("meta", charset="utf-8"), element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"), element("title", title), element("style", Html(LOOK)),
    )  # fmt: skip
    footer = element("footer", "One file, nothing is loaded from elsewhere; each figure carries its data. Made by saedrift.")
    parts = [element("header", element("h1", title), lead), contents, element("main", joined(body)), footer]
    return "<!DOCTYPE html>\n" + element("html", head, element("body", joined(parts)), lang="en") + "\n"
