import { expect, test } from 'vitest';
import { z } from 'zod';
import { readDocument } from '../../agent/core/document.ts';
import * as f from '../../agent/core/fields.ts';
import { issuesOf } from '../issues.ts';

const anything = z.record(z.string(), z.unknown());
const read = (text: string, schema: z.ZodType = anything, maxLength?: number) =>
  readDocument(text, 'a.yaml', schema, maxLength);

test('every scalar is its text', () => {
  const text = 'imsi: 001010123456789\nno: no\nempty:\nhex: 0x10\nblock: |\n  a\n  b\nquoted: "x: y"\n';
  expect(read(text)).toMatchObject({
    document: { value: { imsi: '001010123456789', no: 'no', empty: '', hex: '0x10', block: 'a\nb\n', quoted: 'x: y' } },
  });
});

test.each([
  [
    'aliases and anchors',
    'a: &x 1\nb: *x\n',
    [
      'a.yaml:1:4: anchors are not taken; write the value out where it is wanted',
      'a.yaml:2:4: aliases are not taken; write the value out',
    ],
  ],
  ['tags', 'a: !!str 1\n', ['a.yaml:1:4: tags are not taken; the schema knows the types']],
  ['directives', '%YAML 1.1\n---\na: no\n', ['a.yaml:1:1: directives are not taken; the file is read as YAML 1.2']],
  ['explicit keys', '? a\n: b\n', ['a.yaml:1:1: explicit keys are not taken; write "key: value"']],
  ['merge keys', 'a: { <<: { b: 1 } }\n', ['a.yaml:1:6: merge keys are not taken; write the members out']],
  ['keys of the prototype', '__proto__: { a: 1 }\n', ['a.yaml:1:1: "__proto__" cannot be a key']],
  ['tabs', 'a:\n\tb: 1\nc: 1\t# x\n', ['a.yaml:2:1: a tab; use spaces', 'a.yaml:3:5: a tab; use spaces']],
  [
    'duplicate keys',
    'a: 1\nb: { c: 1, c: 2 }\n"a": 2\n',
    [
      'a.yaml:2:12: duplicate key "c"; it stands in line 2 already',
      'a.yaml:3:1: duplicate key "a"; it stands in line 1 already',
    ],
  ],
  ['several documents', 'a: 1\n---\nb: 1\n', ['a.yaml:2:1: a second document begins; a file is one document']],
  [
    'invisible characters',
    'a: b\u202ec\r\nd: \u0000\n',
    ['a.yaml:1:5: the invisible character U+202E; remove it', 'a.yaml:2:4: the invisible character U+0000; remove it'],
  ],
  ['a byte order mark', '\ufeffa: 1\n', ['a.yaml:1:1: the invisible character U+FEFF; remove it']],
  [
    'invisible characters as escapes',
    'a: "b\\u0007"\n',
    ['a.yaml:1:4: the invisible character U+0007 in a quoted text; remove it'],
  ],
  ['escapes beyond Unicode', 'a: "\\U80000041"\n', ['a.yaml:1:4: not YAML: \\U80000041 is no character']],
  ['keys that are no text', '{ [a]: 1 }\n', ['a.yaml:1:3: a key must be a plain text']],
  ['empty keys', 'a: 1\n: 2\n', ['a.yaml:2:1: a key must be a plain text']],
  [
    'explicit keys, where comments and texts have question marks',
    '# ?\na?: "b?" # ?\nc: { "#": "?", ? d: 1 } #?\n? # is it?\n  e\n: 1\n?',
    [
      'a.yaml:3:16: explicit keys are not taken; write "key: value"',
      'a.yaml:4:1: explicit keys are not taken; write "key: value"',
      'a.yaml:7:1: explicit keys are not taken; write "key: value"',
      'a.yaml:7:2: a key must be a plain text',
    ],
  ],
  [
    'an explicit key before a comment without end',
    '? #',
    ['a.yaml:1:1: explicit keys are not taken; write "key: value"', 'a.yaml:1:4: a key must be a plain text'],
  ],
  [
    'directives that nobody knows',
    '# a\n%FOO ?\n%BAR\n---\na: 1\n',
    [
      'a.yaml:2:1: directives are not taken; the file is read as YAML 1.2',
      'a.yaml:3:1: directives are not taken; the file is read as YAML 1.2',
    ],
  ],
  ['the end of no document', '...\na: 1\n', ['a.yaml:1:1: a second document begins; a file is one document']],
  [
    'a document after another with its mark',
    '--- # one\na: |\n  x\n...\n--- # two\nb: 1\n',
    ['a.yaml:4:1: a second document begins; a file is one document'],
  ],
  [
    'broken YAML',
    'a: [1\nb: 2\n',
    [
      'a.yaml:2:1: not YAML: deficient indentation; a bracket or quote before it is not closed, or this line must be indented further',
    ],
  ],
  ['a bottomless file', '['.repeat(100_000), ['a.yaml:1:64: nested deeper than 64 levels']],
  ['bottomless compact lists', '- '.repeat(1000), ['a.yaml:1:129: nested deeper than 64 levels']],
])('refuses %s', (_, text, issues) => {
  expect(issuesOf(read(text))).toEqual(issues);
});

test('refuses a file that is too large before it reads it', () => {
  expect(issuesOf(read('a: 1\n', anything, 4))).toEqual(['a.yaml:1:1: the file has more than 4 characters; split it']);
});

const schema = f.mapping({
  name: f.name(),
  ports: f.list(f.ports, 'ports'),
  hosts: f.named(f.mapping({ address: f.address, prefix: f.prefix.exactOptional() }), 'hosts').default({}),
  count: f.integer(1, 10).default(3),
  mode: f.choice('open', 'closed').exactOptional(),
});

test('tells every issue of the schema, in order, at its place', () => {
  const text = `nmae: gw
colour: red
ports: [80, 70-60, 0, x, 1-2-3]
hosts:
  one: { address: 192.0.2.256 }
  Two: { address: "2001:db8::1" }
  three: { prefix: 192.0.2.1/24 }
count: 11
mode: ajar
`;
  expect(issuesOf(read(text, schema))).toEqual([
    'a.yaml:1:1: "name" is missing: expected a name (lower-case letters, digits, dot, hyphen; at most 63)',
    'a.yaml:1:1: unknown key "nmae"; did you mean "name"?',
    'a.yaml:2:1: unknown key "colour"; known here: name, ports, hosts, count, mode',
    'a.yaml:3:13: expected a port or a range of ports such as 61616-61631, found "70-60"; the lower port comes first',
    'a.yaml:3:20: expected a port or a range of ports such as 61616-61631, found "0"',
    'a.yaml:3:23: expected a port or a range of ports such as 61616-61631, found "x"',
    'a.yaml:3:26: expected a port or a range of ports such as 61616-61631, found "1-2-3"',
    'a.yaml:5:19: expected an IP address, found "192.0.2.256"',
    'a.yaml:6:3: expected a name (lower-case letters, digits, dot, hyphen; at most 63), found "Two"',
    'a.yaml:7:3: "address" is missing: expected an IP address',
    'a.yaml:7:20: expected a prefix: "192.0.2.1/24" has bits set behind its length; the prefix is 192.0.2.0/24',
    'a.yaml:8:8: expected a whole number from 1 to 10, found "11"',
    'a.yaml:9:7: expected one of open, closed, found "ajar"',
  ]);
});

test('says what stands there instead of what is expected', () => {
  expect(issuesOf(read('name: [a]\nports: {}\nhosts: x\ncount:\n', schema))).toEqual([
    'a.yaml:1:1: expected a name (lower-case letters, digits, dot, hyphen; at most 63), found a list',
    'a.yaml:2:1: expected a list of ports, found a mapping',
    'a.yaml:3:8: expected a mapping from names to hosts, found "x"',
    'a.yaml:4:1: expected a whole number from 1 to 10, found nothing',
  ]);
  expect(issuesOf(read('name: a\nports: []\n', schema))).toEqual([
    'a.yaml:2:1: expected a list of ports, found an empty one',
  ]);
  expect(issuesOf(read('# nothing yet\n', schema))).toEqual([
    'a.yaml:1:1: expected a mapping with the keys name, ports, hosts, count, mode, found nothing',
  ]);
});

test('an item of which nothing is written is found by its hyphen', () => {
  const text = 'name: a\nports: # - none\n  - 80\n  -\n  # - 90\n  -\n  - x\n';
  expect(issuesOf(read(text, schema))).toEqual([
    'a.yaml:4:3: expected a port or a range of ports such as 61616-61631, found nothing',
    'a.yaml:6:3: expected a port or a range of ports such as 61616-61631, found nothing',
    'a.yaml:7:5: expected a port or a range of ports such as 61616-61631, found "x"',
  ]);
});

test('a character of a text is found, however it is written', () => {
  const text = "a: 'it''s x'\nb: # > not here\n  > # but |\n  folded\n  x\nc: \"q \\\"\n  x\"\nd: |-\n  x\n";
  const reading = read(text);
  if (!('document' in reading)) throw new Error(issuesOf(reading).join('\n'));
  const { value, locate } = reading.document;
  const written = value as Record<string, string>;
  const places = Object.entries(written).map(([key, one]) => locate([key], one.indexOf('x')));
  expect(places.map(({ line, column }) => [line, column])).toEqual([
    [1, 11],
    [5, 3],
    [7, 3],
    [9, 3],
  ]);
  expect(locate(['b'])).toMatchObject({ line: 3, column: 3 });
});

test('a value is frozen through and through, and knows the way back to its text', () => {
  const reading = read('name: gw\nports: [80, 443]\nhosts:\n  one:\n    address: 192.0.2.1\n', schema);
  if (!('document' in reading)) throw new Error(issuesOf(reading).join('\n'));
  const { value, locate } = reading.document;
  expect(Object.isFrozen(value)).toBe(true);
  expect(Object.isFrozen((value as { ports: unknown[] }).ports[0])).toBe(true);
  expect(locate(['ports', 1])).toEqual({ file: 'a.yaml', line: 2, column: 13 });
  expect(locate(['hosts', 'one'])).toEqual({ file: 'a.yaml', line: 4, column: 3 });
  expect(locate(['hosts', 'one', 'address'])).toEqual({ file: 'a.yaml', line: 5, column: 14 });
  expect(locate(['hosts', 'one', 'absent', 3])).toEqual({ file: 'a.yaml', line: 4, column: 3 });
});
