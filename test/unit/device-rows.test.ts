import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Device, ExternalId, MtcUserName } from '../../agent/core/words.ts';
import { DeviceRows, formatRowIssue, type RowFormat, rowWriter } from '../../agent/directory/device-rows.ts';
import type { OwnerOf } from '../../agent/directory/registry.ts';

const ownerOf: OwnerOf = (device) =>
  device.endsWith('@meters.example')
    ? ('acme' as MtcUserName)
    : device.endsWith('@cars.example')
      ? ('cars' as MtcUserName)
      : undefined;

/** What rows say, a text or bytes cut into pieces of a size. */
function read(
  format: RowFormat,
  text: string | Uint8Array,
  pieces = 7,
): { devices: Device[]; issues: string[]; lines: number[] } {
  const rows = new DeviceRows(format, ownerOf);
  const bytes = typeof text === 'string' ? new TextEncoder().encode(text) : text;
  const all = [];
  for (let at = 0; at < bytes.length; at += pieces) all.push(...rows.take(bytes.subarray(at, at + pieces)));
  all.push(...rows.end());
  const found = all.filter((one) => 'device' in one);
  return {
    devices: found.map(({ device }) => device),
    lines: found.map(({ line }) => line),
    issues: all.flatMap((one) => ('message' in one ? formatRowIssue(one) : [])),
  };
}

describe('CSV', () => {
  test('columns in any order, empty cells are not there, quotation marks, both kinds of line ends, a mark of UTF-8', () => {
    const text = `attributes.model,imsi,externalId,msisdn,attributes.place,interfaceId,mtcUser
M2,001010123456789,m1@Meters.example,+491715550100,"Berlin, ""Mitte""
behind the house",0:0:0:1,acme

,,m2@meters.example,,,,
`;
    const expected = [
      {
        externalId: 'm1@meters.example',
        msisdn: '491715550100',
        imsi: '001010123456789',
        interfaceId: '0:0:0:1',
        attributes: { model: 'M2', place: 'Berlin, "Mitte"\nbehind the house' },
      },
      { externalId: 'm2@meters.example' },
    ];
    for (const written of [
      text,
      text.trimEnd(),
      `\ufeff${text}`,
      text.replaceAll('\n', '\r\n').replace('"\r\n', '"\n'),
    ])
      for (const pieces of [1, 7, 10_000]) {
        const { devices, issues, lines } = read('csv', written, pieces);
        expect(issues).toEqual([]);
        expect(JSON.parse(JSON.stringify(devices).replaceAll('\\r\\n', '\\n'))).toEqual(expected);
        expect(lines).toEqual([2, 5]);
      }
  });

  test('every cell that is wrong, with its line and column', () => {
    const { issues, devices } = read(
      'csv',
      `externalId,msisdn,imsi,interfaceId,mtcUser,attributes.model
nobody,+49,12,0:0:0:0,ACME!,${'x'.repeat(300)}
m2@meters.example,"a
b",001010000000002,,cars,M2
m3@meters.example,+491715550103
,+491715550104,,,,
m5@elsewhere.example,,,,acme,
m6@meters.example,,,1:2:3:g,acme,
m7@meters.example,+491715550107,,A:0:0:1,acme,
`,
    );
    expect(issues.map((issue) => issue.replace(/x{9,}/, 'xxx'))).toEqual([
      '2:externalId: expected an external identifier such as meter-1@meters.example, found "nobody"',
      '2:msisdn: expected an MSISDN: 5 to 15 digits of E.164, such as +491715550100, found something else',
      '2:imsi: expected an IMSI: 6 to 15 digits, found something else',
      '2:mtcUser: expected a name (lower-case letters, digits, dot, hyphen; at most 63), found "ACME!"',
      '2:interfaceId: expected an interface identifier such as 0:0:0:1, not all zeros, found "0:0:0:0"',
      '2:attributes.model: expected a text of at most 256 characters, found "xxx…"',
      '3:msisdn: expected an MSISDN: 5 to 15 digits of E.164, such as +491715550100, found something else',
      '5: expected 6 cells, as many as the header has columns, found 2',
      '6:externalId: "externalId" is missing: expected an external identifier such as meter-1@meters.example',
      '7:mtcUser: m5@elsewhere.example is of no MTC user by the rule files, not of acme',
      '8:interfaceId: expected an interface identifier such as 0:0:0:1, not all zeros, found "1:2:3:g"',
    ]);
    expect(devices).toEqual([{ externalId: 'm7@meters.example', msisdn: '491715550107', interfaceId: 'a:0:0:1' }]);
  });

  test('a claim about whose a device is does not overrule the rule files', () => {
    expect(read('csv', 'externalId,mtcUser\nm1@meters.example,cars\n').issues).toEqual([
      '2:mtcUser: m1@meters.example is of acme by the rule files, not of cars',
    ]);
  });

  test('a header that is not known ends the reading; so does a quotation mark that hides the lines', () => {
    const header = (line: string) => read('csv', `${line}\nnobody\n`).issues;
    expect(header('externalId,msidn,attributes.1st,iccid,msisdn,msisdn')).toEqual([
      '1: unknown column "msidn"; did you mean "msisdn"?',
      '1: unknown column "attributes.1st"; known here: externalId, msisdn, imsi, mtcUser, interfaceId, attributes.NAME',
      '1: unknown column "iccid"; known here: externalId, msisdn, imsi, mtcUser, interfaceId, attributes.NAME',
      '1:msisdn: this column is there twice',
    ]);
    expect(header('msisdn,operator')).toEqual([
      '1: unknown column "operator"; known here: externalId, msisdn, imsi, mtcUser, interfaceId, attributes.NAME',
      '1: the column externalId is missing',
    ]);
    expect(header('attributes.__proto__,externalId')).toHaveLength(1);
    expect(read('csv', '').issues).toEqual([
      '1: expected a header with the columns externalId, msisdn, imsi, mtcUser, interfaceId, found nothing',
    ]);
    expect(read('csv', 'externalId\nm1@a.example\n"m2@a.example\nm3@a.example\n').issues).toEqual([
      '3: a quotation mark in this row is not closed',
    ]);
    expect(read('csv', 'externalId,imsi\nm1@a.example,\n"m2"@a.example,\nm3,\n', 1000).issues).toEqual([
      '3: behind a quotation mark only a comma or the end of the row may stand; within, write two',
    ]);
    const long = read('csv', `externalId\n"${'x\n'.repeat(40_000)}`, 4096);
    expect(long.issues).toEqual(['2: a row of more than 65536 characters: is a quotation mark not closed?']);
  });
});

describe('JSON lines', () => {
  test('one device a line; numbers have lost what they were', () => {
    const { devices, issues, lines } = read(
      'jsonl',
      `{"externalId":"m1@meters.example","msisdn":"+491715550101","attributes":{"model":"M2"},"mtcUser":"acme"}

{"externalId":"m2@meters.example","imsi":1010000000002,"attributes":{"a b":"x","model":7,"region":null}}
["m3@meters.example"]
{"externalId":"m4@meters.example"
null
{"externalId":"m5@meters.example","msidn":"1","__proto__":{}}
{"externalId":"m6@meters.example","attributes":[]}
{}
{"externalId":"m7@meters.example"}`,
    );
    expect(issues).toEqual([
      '3:imsi: expected an IMSI: 6 to 15 digits, found 1010000000002 without quotation marks',
      '3:attributes.a b: expected an attribute name (letters, digits, underscore; a letter first; at most 63), found "a b"',
      '3:attributes.model: expected a text of at most 256 characters, found 7 without quotation marks',
      '3:attributes.region: expected a text of at most 256 characters, found nothing',
      '4: expected a device as a JSON object in one line, found "["m3@meters.example"]"',
      '5: expected a device as a JSON object in one line, found "{"externalId":"m4@meters.example""',
      '6: expected a device as a JSON object in one line, found "null"',
      '7: unknown key "msidn"; did you mean "msisdn"?',
      '7: unknown key "__proto__"; known here: externalId, msisdn, imsi, mtcUser, interfaceId, attributes',
      '8:attributes: expected a mapping from attribute names to values, found a list',
      '9:externalId: "externalId" is missing: expected an external identifier such as meter-1@meters.example',
    ]);
    expect(devices.map(({ externalId }) => externalId)).toEqual(['m1@meters.example', 'm7@meters.example']);
    expect(lines).toEqual([1, 10]);
  });

  test('a line without end is not kept', () => {
    expect(read('jsonl', `{"externalId":"m1@a.example"}\n${'x'.repeat(70_000)}\n`, 4096).issues).toEqual([
      '2: a line of more than 65536 bytes',
    ]);
  });
});

test.each(['csv', 'jsonl'] as const)('%s: bytes that are not UTF-8 are named by their line', (format) => {
  const line = (name: string, model: string) =>
    format === 'csv' ? `${name},${model}\n` : `${JSON.stringify({ externalId: name, attributes: { model } })}\n`;
  const head = format === 'csv' ? 'externalId,attributes.model\n' : '\n';
  const text = `${head}${line('m1@a.example', 'é')}${line('m2@a.example', 'Gr\u00fc\u00dfe')}${line('m3@a.example', 'x')}`;
  const latin = Buffer.concat([
    Buffer.from(head + line('m1@a.example', 'é')),
    Buffer.from(text.slice(head.length + line('m1@a.example', 'é').length), 'latin1'),
  ]);
  expect(read(format, text)).toMatchObject({ issues: [], lines: [2, 3, 4] });
  for (const pieces of [1, 5, 1000])
    expect(read(format, latin, pieces)).toMatchObject({ issues: ['3: not UTF-8; save the file as UTF-8'] });
});

const digits = (minLength: number, maxLength: number) =>
  fc.string({ unit: fc.constantFrom(...'0123456789'), minLength, maxLength });
const optional = <Value>(value: fc.Arbitrary<Value>) => fc.option(value, { nil: undefined });
const device = fc
  .record({
    externalId: fc
      .tuple(
        fc.string({ unit: fc.constantFrom(...'am1",;-_'), minLength: 1, maxLength: 8 }),
        fc.constantFrom('meters.example', 'cars.example', 'a.b'),
      )
      .map(([local, domain]) => `${local}@${domain}` as ExternalId),
    msisdn: optional(digits(4, 14).map((rest) => `4${rest}`)),
    imsi: optional(digits(6, 15)),
    interfaceId: optional(fc.constantFrom('0:0:0:1', 'fe:ffff:0:1')),
    attributes: optional(
      fc.dictionary(
        fc.constantFrom('model', 'constructor', 'a_1'),
        fc.string({ unit: 'binary', minLength: 1, maxLength: 9 }),
        { minKeys: 1 },
      ),
    ),
  })
  .map(
    (written) =>
      Object.fromEntries(Object.entries(written).filter(([, value]) => value !== undefined)) as unknown as Device,
  );

test.each(['csv', 'jsonl'] as const)('%s: what is exported is read as it was, in pieces of any size', (format) => {
  fc.assert(
    fc.property(fc.array(device, { maxLength: 6 }), fc.integer({ min: 1, max: 64 }), (devices, pieces) => {
      const names = [...new Set(devices.flatMap(({ attributes = {} }) => Object.keys(attributes)))].sort();
      const { header, line } = rowWriter(format, names);
      const text = header + devices.map((one) => line({ device: one, mtcUser: ownerOf(one.externalId) })).join('');
      expect(read(format, text, pieces)).toMatchObject({ issues: [], devices });
    }),
  );
});
