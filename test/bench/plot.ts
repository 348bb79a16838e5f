/** What a packet costs against how many grants are held, as an SVG for the README: one line a gateway, solid where a thousand are hit. */
import type { Packets } from './packets.ts';

const WIDTH = 720;
const HEIGHT = 380;
const LEFT = 70;
const RIGHT = 190;
const TOP = 40;
const BOTTOM = 50;
const COLOURS = ['#555555', '#c0392b', '#2471a3', '#1e8449'] as const;
const GATEWAYS = ['plain forwarding', 'nftables DNAT', 'gate at TC', 'gate at XDP'] as const;
const HELD = [1_000, 100_000, 1_000_000] as const;
const LABELS = ['1k', '100k', '1M'] as const;

export function plotPackets({ rows }: Packets): string {
  const lines = GATEWAYS.flatMap((gateway, i) =>
    ['1k', '60k'].flatMap((hit) => {
      const points = HELD.flatMap((held, at) => {
        const row = rows.find(({ name }) => name === `${gateway}, ipv4, ${LABELS[at]} held, ${hit} hit`);
        return row ? [{ held, nanoseconds: row.nanoseconds.median }] : [];
      });
      return points.length > 1 ? [{ gateway, hit, colour: COLOURS[i] ?? '#000000', points }] : [];
    }),
  );
  const most = Math.max(...lines.flatMap(({ points }) => points.map(({ nanoseconds }) => nanoseconds)));
  const top = Math.ceil(most / 250) * 250;
  const x = (held: number) => LEFT + ((Math.log10(held) - 3) / 3) * (WIDTH - LEFT - RIGHT);
  const y = (nanoseconds: number) => HEIGHT - BOTTOM - (nanoseconds / top) * (HEIGHT - TOP - BOTTOM);
  const grid = Array.from({ length: top / 250 + 1 }, (_, i) => i * 250).map(
    (value) =>
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}" stroke="#dddddd"/><text x="${LEFT - 8}" y="${y(value) + 4}" text-anchor="end">${value}</text>`,
  );
  const ticks = HELD.map(
    (held, i) => `<text x="${x(held)}" y="${HEIGHT - BOTTOM + 20}" text-anchor="middle">${LABELS[i]}</text>`,
  );
  const drawn = lines.map(({ colour, hit, points }) => {
    const path = points.map(({ held, nanoseconds }) => `${x(held).toFixed(1)},${y(nanoseconds).toFixed(1)}`).join(' ');
    const dots = points.map(
      ({ held, nanoseconds }) =>
        `<circle cx="${x(held).toFixed(1)}" cy="${y(nanoseconds).toFixed(1)}" r="3" fill="${colour}"/>`,
    );
    const dashes = hit === '60k' ? ' stroke-dasharray="6 4"' : '';
    return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dashes}/>${dots.join('')}`;
  });
  const legend = lines.map(({ gateway, hit, colour }, i) => {
    const at = TOP + i * 20;
    const dashes = hit === '60k' ? ' stroke-dasharray="6 4"' : '';
    return `<line x1="${WIDTH - RIGHT + 12}" x2="${WIDTH - RIGHT + 40}" y1="${at}" y2="${at}" stroke="${colour}" stroke-width="2"${dashes}/><text x="${WIDTH - RIGHT + 46}" y="${at + 4}">${gateway}, ${hit} hit</text>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    `<text x="${LEFT}" y="20">nanoseconds of one core a packet: generator, gateway and receiver</text>`,
    `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 10}" text-anchor="middle">grants held</text>`,
    ...grid,
    ...ticks,
    ...drawn,
    ...legend,
    '</svg>',
    '',
  ].join('\n');
}
