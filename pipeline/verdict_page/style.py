"""How the page looks: light and dark, on a telephone, on a screen and on paper."""

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1f2328; --line: #d0d7de; --soft: #f6f8fa; --dim: #59636e;
  --bad: #b3261e; --good: #1a7f37; --open: #8a5300; --zone: #b3261e22; --value: #0550ae; --still: #8c959f; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3; --line: #30363d; --soft: #161b22;
  --dim: #9198a1; --bad: #ff8a80; --good: #7ee08f; --open: #ffb74d; --zone: #ff8a8030; --value: #79c0ff; --still: #6e7681; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 0 1rem 3rem; background: var(--ground);
  color: var(--ink); overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.5rem 0 .4rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.3rem 0 .4rem; } p { margin: .4rem 0; max-width: 90ch; } small, .path { font-size: .82rem; color: var(--dim); }
h3 small { font-weight: 400; } code { font-size: .82rem; } th code { display: block; font-weight: 400; color: var(--dim); }
header { border-left: 6px solid var(--still); padding-left: 1rem; } span.bad { color: var(--bad); } span.good { color: var(--good); }
header.bad { border-color: var(--bad); } header.good { border-color: var(--good); } header.open { border-color: var(--open); }
header.bad h1 { color: var(--bad); } header.good h1 { color: var(--good); } header.open h1 { color: var(--open); }
.figures { display: flex; flex-wrap: wrap; gap: .6rem 2.4rem; margin: 1rem 0; padding: 0; list-style: none; }
.figures b { display: block; font-size: 1.5rem; line-height: 1.2; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; } thead th { font-size: .82rem; color: var(--dim); font-weight: 600; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem .4rem 0; border-bottom: 1px solid var(--line); }
tr.bad td[data-column=Outcome] { color: var(--bad); font-weight: 600; } tr.good td[data-column=Outcome] { color: var(--good); }
tr.open td[data-column=Outcome] { color: var(--open); font-weight: 600; } tr.mild td[data-column=Outcome] { color: var(--dim); }
tbody th { font-weight: 600; } td small, th small { display: block; }
.checks th:nth-child(1) { width: 22%; } .checks th:nth-child(2) { width: 12%; } .checks th:nth-child(3) { width: 15%; }
.checks th:nth-child(4) { width: 18%; } .checks th:nth-child(5) { width: 8%; }
.paired th:nth-child(1) { width: 15%; } .paired th:nth-child(2) { width: 12%; } .paired th:nth-child(7) { width: 14%; } .paired th:nth-child(8) { width: 27%; }
.axis div { display: flex; justify-content: space-between; font-weight: 400; } .axis { padding-right: 0; } .paired td:last-child { padding-right: 0; }
svg { display: block; width: 100%; height: 20px; } svg.shares { height: 30px; margin: .6rem 0; border-radius: 4px; }
svg line { vector-effect: non-scaling-stroke; } .scale { stroke: var(--line); } .zone { fill: var(--zone); }
.bound { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 3 2; } .zero { stroke: var(--still); stroke-width: 1; }
.interval { stroke: var(--value); stroke-width: 3; } .value { stroke: var(--value); stroke-width: 4; }
rect.both-right { fill: var(--line); } rect.newly-right { fill: var(--good); } rect.newly-wrong { fill: var(--bad); } rect.both-wrong { fill: var(--still); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; list-style: none; padding: 0; margin: .3rem 0; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
i.both-right { background: var(--line); } i.newly-right { background: var(--good); } i.newly-wrong { background: var(--bad); } i.both-wrong { background: var(--still); }
.tiles { list-style: none; padding: 0; margin: .5rem 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: .8rem; }
.tiles li { border: 1px solid var(--line); border-radius: 4px; padding: .6rem; break-inside: avoid; }
.tiles li > div { height: 168px; display: flex; align-items: center; justify-content: center; text-align: center; background: var(--soft); color: var(--dim); }
.tiles p { margin: .3rem 0; } img { max-width: 100%; max-height: 160px; }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .3rem 1.2rem; } dt { color: var(--dim); } dd { margin: 0; }
summary { cursor: pointer; padding: .4rem 0; color: var(--value); }
@media screen and (max-width: 760px) {
  thead { position: absolute; clip-path: inset(50%); height: 1px; overflow: hidden; } table, tbody, tr, th, td { display: block; width: auto !important; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; } tbody th, td { border: 0; padding: .1rem 0; } td.empty { display: none; }
  td::before { content: attr(data-column) ": "; color: var(--dim); font-size: .82rem; font-weight: 400; } td small { display: inline; }
  .paired td.count { display: inline-block; margin-right: 1rem; } .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } .tiles li > div { height: 140px; } img { max-height: 132px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
}
@media print { html { font-size: 10px; } body { max-width: none; font-size: 10px; padding: 0; } h2 { margin-top: 1.4rem; } td, tbody th { padding-top: .15rem; padding-bottom: .15rem; } svg { height: 14px; } .tiles { grid-template-columns: repeat(6, 1fr); } .tiles li > div { height: 100px; } img { max-height: 96px; } tr, .tiles li { break-inside: avoid; } h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; display: block; } summary { color: inherit; } * { print-color-adjust: exact; } }
"""
