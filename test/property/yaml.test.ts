/**
 * YAML is read as YAML 1.2 says: whatever stands in a text, what we take of it
 * another parser takes too, with the same values at the same places. The
 * texts are the shipped files and one with all styles, cut and broken anyhow.
 */
import { readdirSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isMap, isScalar, isSeq, parseDocument } from 'yaml';
import { type Node, readYaml } from '../../agent/core/yaml.ts';
import { ROOT } from '../child.ts';

const STYLES = `a: |
  x
   y

b: >-
  f
  g

  h
   i
c: "q
  w\\n\\u00e9\\
  v"
d: 's''t

  u'
e: # five
- 1
-
- - 2
  - 3
- k: v w
    x
  l: [a, b: c, {d: e}]
f: {g, h: , "i": "j", 'k': [
    l ] }
`;
const shipped = readdirSync(`${ROOT}rules`).filter((name) => name.endsWith('.yaml'));
const texts = [
  STYLES,
  ...shipped.map((name) => readFileSync(`${ROOT}rules/${name}`, 'utf8')),
  readFileSync(`${ROOT}systemd/agent.yaml.example`, 'utf8'),
];
const ATOMS =
  '\n|\r\n|\n\n|\n  |\n- | |  |- |: |:|#| #|"|\'|[|]|{|}|,|, |?|? |&a |*a|!t |%|\n%A\n|\n---\n|\n...\n|---|\\|\\n|\\x41|\\\n|\\U00110000|\\uD83D|\\/|@|`|a|b: c|<<: |-|\n#\n|é|\u{1F600}|1|=|~|\'\'|"":|^|>|^-\n|>+\n|^2\n|>1\n  '
    .split('|')
    .map((atom) => atom.replace('^', '|'));

const broken = fc
  .record({
    text: fc.constantFrom(...texts),
    from: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.nat(400),
    cuts: fc.array(
      fc.record({
        at: fc.double({ min: 0, max: 1, noNaN: true }),
        without: fc.oneof(fc.constant(0), fc.nat(5)),
        atoms: fc.array(fc.constantFrom(...ATOMS), { maxLength: 2 }),
      }),
      { maxLength: 3 },
    ),
  })
  .map(({ text, from, length, cuts }) => {
    const line = text.lastIndexOf('\n', from * text.length) + 1;
    let cut = text === STYLES ? text : text.slice(line, line + length);
    for (const { at, without, atoms } of cuts) {
      const place = Math.floor(at * cut.length);
      cut = cut.slice(0, place) + atoms.join('') + cut.slice(place + without);
    }
    return cut;
  });
const loose = fc.array(fc.constantFrom(...ATOMS), { maxLength: 14 }).map((atoms) => atoms.join(''));

test('what is taken is what another parser takes', () => {
  let taken = 0;
  fc.assert(
    fc.property(fc.oneof({ weight: 4, arbitrary: broken }, loose), (cut) => {
      // Of a document's last line of spaces, within or behind a block scalar, the two think differently.
      const text = `${cut.replace(/\n[ \n]+(?=$|\n---|\n\.\.\.)/g, '')}\n`;
      const reading = readYaml(text);
      if ('faults' in reading) {
        expect(reading.faults.length).toBeGreaterThan(0);
        for (const { offset } of reading.faults) expect(offset >= 0 && offset <= text.length).toBe(true);
        return;
      }
      // A file that is one scalar is refused by every schema, and of its indentation the two think differently.
      if (reading.root.kind === 'scalar') return;
      taken += 1;
      const other = parseDocument(text, { version: '1.2', schema: 'failsafe', stringKeys: true });
      expect([...other.errors, ...other.warnings].map(({ message }) => message)).toEqual([]);
      expect(said(reading.root)).toEqual(saidByOther(other.contents));
    }),
    { numRuns: 2_000 },
  );
  expect(taken).toBeGreaterThan(200);
});

/** A tree as plain values: a scalar as its text and place, where there is text; a mapping as keys, their places, and values. */
function said(node: Node): unknown {
  if (node.kind === 'scalar') return node.text === '' ? 'nothing' : [node.text, node.at];
  if (node.kind === 'list') return node.items.map(({ value }) => said(value));
  return [...node.members].map(([key, { keyAt, value }]) => ({ key, keyAt, value: said(value) }));
}

function saidByOther(node: unknown): unknown {
  if (isMap(node))
    return node.items.map(({ key, value }) => {
      if (!isScalar(key)) throw new TypeError('a key is no scalar');
      return { key: key.value, keyAt: key.range?.[0], value: saidByOther(value) };
    });
  if (isSeq(node)) return node.items.map(saidByOther);
  return isScalar(node) && node.value !== '' && node.value !== null ? [node.value, node.range?.[0]] : 'nothing';
}
