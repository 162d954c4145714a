"""How the page looks: light and dark, on a telephone and on a screen."""

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1f2328; --line: #d0d7de; --soft: #f6f8fa; --dim: #59636e;
  --bad: #b3261e; --good: #1a7f37; --open: #8a5300; --value: #0550ae; --zone: #8a530018;
  --c0: #0550ae; --c1: #d1571d; --c2: #1a7f37; --c3: #8250df; --c4: #b58900; --c5: #c2388a; --c6: #0e8a93; --c7: #7d5538; --c8: #8c959f; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3; --line: #30363d; --soft: #161b22;
  --dim: #9198a1; --bad: #ff8a80; --good: #7ee08f; --open: #ffb74d; --value: #79c0ff; --zone: #ffb74d1c;
  --c0: #79c0ff; --c1: #ffa657; --c2: #7ee08f; --c3: #d2a8ff; --c4: #e3c45b; --c5: #f79ac8; --c6: #5fd4dd; --c7: #c9a58a; --c8: #6e7681; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1240px; padding: 0 1rem 3rem; background: var(--ground);
  color: var(--ink); overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.5rem 0 .4rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 95ch; } small { font-size: .82rem; color: var(--dim); } code { font-size: .88em; }
a { color: var(--value); }
header { border-left: 6px solid var(--c8); padding-left: 1rem; margin-top: 1.5rem; } header h1 { margin-top: 0; }
header.bad { border-color: var(--bad); } header.good { border-color: var(--good); } header.open { border-color: var(--open); }
header.bad h1 { color: var(--bad); } header.good h1 { color: var(--good); } header.open h1 { color: var(--open); }
header code.next { display: inline-block; padding: .25rem .6rem; background: var(--soft); border: 1px solid var(--line); border-radius: 4px; }
.figures { display: flex; flex-wrap: wrap; gap: .6rem 1.8rem; margin: 1rem 0; padding: 0; list-style: none; }
.figures b { display: block; font-size: 1.25rem; line-height: 1.25; } .figures small { display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 1.2rem 2rem; }
.charts .wide { grid-column: 1 / -1; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; } figcaption small { font-weight: 400; display: block; }
.plot { position: relative; margin: .5rem 0 1.5rem 3.2rem; height: 150px; border-left: 1px solid var(--line); border-bottom: 1px solid var(--line); }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot span { position: absolute; font-size: .75rem; color: var(--dim); line-height: 1; white-space: nowrap; }
.plot span.y { right: 100%; margin-right: .4rem; transform: translateY(50%); } .plot span.x { top: 100%; margin-top: .4rem; transform: translateX(-50%); }
figure:not(.wide) .minor { display: none; } .plot span.x.first { transform: none; } .plot span.x.last { transform: translateX(-100%); }
svg * { vector-effect: non-scaling-stroke; } .grid { stroke: var(--line); stroke-width: 1; opacity: .6; }
.zone { fill: var(--zone); } .champion { stroke: var(--good); stroke-width: 1; stroke-dasharray: 2 3; }
.limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 5 3; }
.stroke { fill: none; stroke-width: 2; stroke-linejoin: round; } .whisker { fill: none; stroke-width: 1.5; opacity: .55; } .dot { stroke-width: 6; stroke-linecap: round; } .band { opacity: .2; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); }
.f3 { fill: var(--c3); } .f4 { fill: var(--c4); } .f5 { fill: var(--c5); } .f6 { fill: var(--c6); } .f7 { fill: var(--c7); } .f8 { fill: var(--c8); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; list-style: none; padding: 0; margin: -.3rem 0 0 3.2rem; font-size: .82rem; }
.legend i, td i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
.legend i.rule { height: 0; border-top: 2px dashed var(--bad); vertical-align: middle; width: 1.2em; border-radius: 0; }
.k0 { background: var(--c0); } .k1 { background: var(--c1); } .k2 { background: var(--c2); } .k3 { background: var(--c3); } .k4 { background: var(--c4); }
.k5 { background: var(--c5); } .k6 { background: var(--c6); } .k7 { background: var(--c7); } .k8 { background: var(--c8); }
.lane { position: relative; height: 26px; background: var(--soft); border: 1px solid var(--line); border-radius: 3px; margin: .4rem 0 1.6rem; }
.lane > * { position: absolute; top: 0; bottom: 0; } .lane i { min-width: 4px; border-radius: 2px; background: var(--open); } .lane i.closed { opacity: .55; }
.lane b { width: 0; border-left: 2px solid var(--good); } .lane b.back { border-color: var(--bad); }
.lane span { top: 100%; bottom: auto; margin-top: .3rem; font-size: .75rem; color: var(--dim); line-height: 1; white-space: nowrap; }
.lane span.x { transform: translateX(-50%); } .lane span.x.first { transform: none; } .lane span.x.last { transform: translateX(-100%); }
.episode { border-top: 1px solid var(--line); padding: .7rem 0; } .episode h3 { font-size: 1rem; margin: 0 0 .2rem; } .episode h3 small { font-weight: 400; }
.bar { display: flex; height: 18px; gap: 1px; margin: .4rem 0; border-radius: 3px; overflow: hidden; background: var(--soft); } .bar i { min-width: 3px; }
.states { margin: .3rem 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; font-size: .85rem; }
.states i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
.wrap { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .88rem; } thead th { color: var(--dim); font-weight: 600; white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
td.time, td.figure { white-space: nowrap; font-variant-numeric: tabular-nums; } td.says { min-width: 22rem; } td.word { min-width: 11rem; }
footer { margin-top: 2rem; color: var(--dim); font-size: .82rem; }
@media (max-width: 640px) { .minor { display: none; } .plot { margin-left: 2.6rem; } .legend { margin-left: 0; } h1 { font-size: 1.35rem; }
  .decisions thead { display: none; } .decisions tr { display: block; border-bottom: 1px solid var(--line); padding: .4rem 0; }
  .decisions td { display: block; border: 0; padding: 0; min-width: 0 !important; } .figures { gap: .6rem 1.4rem; } .figures b { font-size: 1.15rem; } }
@media print { .episode, figure { break-inside: avoid; } * { print-color-adjust: exact; } }
"""
