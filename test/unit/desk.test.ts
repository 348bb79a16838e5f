import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { changed, type Desk, deskOf, type SetPreference } from '../../agent/desk/desk.ts';
import { openDesk } from '../../agent/desk/desk-store.ts';
import { authorisable, layDesk } from '../../agent/desk/laid-policy.ts';
import { readPreference, type WrittenPreference, writtenPreference } from '../../agent/desk/preference-form.ts';
import { encloses, parseDevicePattern } from '../../agent/policy/patterns.ts';
import { type MtcUser, versionFor } from '../../agent/policy/policy.ts';
import { wishFor } from '../../agent/policy/preferences.ts';
import { digest, policyOf } from '../rules.ts';

const ACME = 'acme' as never;
const OTHER = 'other' as never;
const POLICY = policyOf(`servers:
  acme-a: { certificates: [{ uri: "urn:a" }], sources: [198.51.100.0/24] }
  acme-b: { certificates: [{ uri: "urn:b" }], sources: [192.0.2.0/24] }
  else: { certificates: [{ uri: "urn:c" }], sources: [203.0.113.0/24] }
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [acme-a], mayAuthorise: ["acme-*"] }
  other: { devices: ["*@other.example"], authorises: [else] }
rules: []
`);
const BY = { byUid: 0 };

const authorise = (desk: Desk, servers: readonly string[], user = ACME) =>
  changed(desk, user, { kind: 'authorise', authorised: { servers: servers as never, by: BY, atMs: 1 } });
function preference(id: string, written: WrittenPreference): SetPreference {
  const read = readPreference(written);
  if ('wrong' in read) throw new Error(read.wrong);
  return { ...read, id, by: BY, atMs: 1 };
}
const prefer = (desk: Desk, id: string, written: WrittenPreference, user = ACME) =>
  changed(desk, user, { kind: 'prefer', preference: preference(id, written) });
const lay = (desk: Desk) => layDesk(POLICY, desk, digest);
const serversOf = (desk: Desk, user = ACME) => lay(desk).mtcUsers.get(user)?.authorises;

describe('the desk laid over a policy', () => {
  test('changes nothing where nothing was said', () => {
    expect(lay(new Map())).toBe(POLICY);
    const said = authorise(new Map(), ['acme-a']);
    expect(changed(said, ACME, { kind: 'authorise' })).toEqual(new Map());
  });

  test('says whom an MTC user authorises, once it has set them; cut by mayAuthorise and by what there is', () => {
    expect(serversOf(authorise(new Map(), ['acme-b', 'else', 'acme-gone']))).toEqual(['acme-b']);
    expect(serversOf(authorise(new Map(), []))).toEqual([]);
    expect(serversOf(authorise(new Map(), ['acme-b']), OTHER)).toEqual(['else']);
  });

  test('an MTC user that the rule files do not name says nothing', () => {
    expect(lay(authorise(new Map(), ['acme-a'], 'gone' as never))).toBe(POLICY);
  });

  test('names the servers that an MTC user may authorise', () => {
    expect(authorisable(POLICY, POLICY.mtcUsers.get(ACME) as MtcUser)).toEqual(['acme-a', 'acme-b']);
  });

  test('has another version where the desk differs, the same where it says the same, and its own for each MTC user', () => {
    const desks = [
      authorise(new Map(), ['acme-a']),
      authorise(new Map(), []),
      prefer(new Map(), 'p', { devices: '*@acme.example', block: true }),
      prefer(new Map(), 'p', { devices: 'm@acme.example', block: true }),
      prefer(new Map(), 'p', { devices: '*@acme.example', grantsPerDay: { grants: 1, zone: 'UTC' } }),
      prefer(new Map(), 'p', { devices: '*@acme.example', grantsPerDay: { grants: 2, zone: 'UTC' } }),
    ];
    const versions = [POLICY.version, ...desks.map((desk) => lay(desk).version)];
    expect(new Set(versions).size).toBe(versions.length);
    const again = authorise(new Map(), ['acme-a']);
    expect(lay(again).version).toBe(versions[1]);
    const laid = lay(again);
    expect(versionFor(laid, OTHER)).toBe(POLICY.version);
    expect(versionFor(laid, ACME)).not.toBe(POLICY.version);
    const both = lay(authorise(again, [], OTHER));
    expect(versionFor(both, ACME)).toBe(versionFor(laid, ACME));
    expect(both.version).not.toBe(laid.version);
  });
});

describe('preferences', () => {
  const at = (text: string) => Date.parse(text);
  const wish = (desk: Desk, device: string, nowMs: number | 'anyTime', begun?: (zone: string) => number) =>
    wishFor(lay(desk), ACME, device as never, nowMs, begun);

  test('block what they match, and nothing else', () => {
    const desk = prefer(new Map(), 'p1', { devices: 'm*@acme.example', block: true });
    expect(wish(desk, 'm1@acme.example', 'anyTime').unwanted).toContain('(preference p1 of acme)');
    expect(wish(desk, 'n1@acme.example', 'anyTime')).toEqual({ untilMs: Number.POSITIVE_INFINITY, heard: 0 });
    expect(wishFor(lay(desk), OTHER, 'm1@acme.example' as never, 'anyTime').heard).toBe(0);
  });

  test('are quiet at their hours, by the clock of their zone', () => {
    const quietHours = { from: '22:00', to: '06:00', zone: 'Europe/Berlin', days: ['mon'] };
    const desk = prefer(new Map(), 'p', { devices: '*@acme.example', quietHours });
    const day = wish(desk, 'm@acme.example', at('2026-01-05T12:00:00Z')); // a Monday
    expect(day).toEqual({ untilMs: at('2026-01-05T21:00:00Z'), heard: 1 });
    expect(wish(desk, 'm@acme.example', at('2026-01-05T21:00:00Z')).unwanted).toContain('22:00-06:00 Europe/Berlin');
    expect(wish(desk, 'm@acme.example', at('2026-01-06T04:59:59Z')).unwanted).toBeDefined();
    expect(wish(desk, 'm@acme.example', at('2026-01-06T05:00:00Z')).unwanted).toBeUndefined();
    expect(wish(desk, 'm@acme.example', at('2026-01-05T20:59:59.500Z')).unwanted).toBeDefined();
    expect(wish(desk, 'm@acme.example', 'anyTime').unwanted).toBeUndefined();
  });

  test('count the grants of a day, where something begins', () => {
    const desk = prefer(new Map(), 'p', { devices: '*@acme.example', grantsPerDay: { grants: 2, zone: 'UTC' } });
    const now = at('2026-01-05T12:00:00Z');
    expect(wish(desk, 'm@acme.example', now, () => 1).unwanted).toBeUndefined();
    expect(wish(desk, 'm@acme.example', now, () => 2).unwanted).toContain('2 grants have begun on it today (UTC)');
    expect(wish(desk, 'm@acme.example', now).unwanted).toBeUndefined();
  });

  test('of several that meet a device each is heard', () => {
    const some = prefer(new Map(), 'p1', { devices: '*@acme.example', grantsPerDay: { grants: 9, zone: 'UTC' } });
    const desk = prefer(some, 'p2', { devices: 'm1@acme.example', block: true });
    expect(wish(desk, 'm1@acme.example', 'anyTime')).toMatchObject({
      heard: 2,
      unwanted: expect.stringContaining('p2'),
    });
    const dropped = changed(desk, ACME, { kind: 'drop', id: 'p2' });
    expect(wish(dropped, 'm1@acme.example', 'anyTime')).toEqual({ untilMs: Number.POSITIVE_INFINITY, heard: 1 });
  });

  test('are written as they are read', () => {
    const written = {
      devices: 'm*@acme.example',
      block: true,
      quietHours: { from: '22:00', to: '24:00', zone: 'Europe/Berlin', days: ['sat', 'sun'] },
      grantsPerDay: { grants: 3, zone: 'UTC' },
    };
    expect(writtenPreference(preference('p', written))).toEqual(written);
  });

  test.each([
    [{ devices: 'nothing', block: true }, 'devices is neither'],
    [{ devices: '*@acme.example' }, 'it says nothing'],
    [{ devices: '*@acme.example', block: false }, 'it says nothing'],
    [{ devices: '*@acme.example', grantsPerDay: { grants: 1, zone: 'Mars/Base' } }, 'grantsPerDay.zone'],
    [{ devices: '*@acme.example', quietHours: { from: '25:00', to: '06:00', zone: 'UTC' } }, 'quietHours.from'],
    [{ devices: '*@acme.example', quietHours: { from: '22:00', to: '6', zone: 'UTC' } }, 'quietHours.to'],
    [{ devices: '*@acme.example', quietHours: { from: '22:00', to: '22:00', zone: 'UTC' } }, 'are the same'],
    [{ devices: '*@acme.example', quietHours: { from: '22:00', to: '06:00', zone: 'Nowhere' } }, 'quietHours.zone'],
    [{ devices: '*@a.example', quietHours: { from: '1:00', to: '06:00', zone: 'UTC' } }, 'quietHours.from'],
    [{ devices: '*@a.example', quietHours: { from: '01:00', to: '06:00', zone: 'UTC', days: [] } }, 'quietHours.days'],
  ])('%j is refused with its place', (written, wrong) => {
    expect(readPreference(written)).toEqual({ wrong: expect.stringContaining(wrong) });
  });
});

describe('a pattern encloses another', () => {
  const pattern = (text: string) => parseDevicePattern(text) as NonNullable<ReturnType<typeof parseDevicePattern>>;
  test.each([
    ['*@acme.example', 'm1@acme.example', true],
    ['*@acme.example', 'm*@acme.example', true],
    ['*@acme.example', '*@*.acme.example', false],
    ['m*@acme.example', '*@acme.example', false],
    ['m*@acme.example', 'm*1@acme.example', true],
    ['m*1@acme.example', 'm1@acme.example', true],
    ['m*1@acme.example', 'm*@acme.example', false],
    ['*@*.acme.example', 'm@site.acme.example', true],
    ['*@*.acme.example', '*@*.site.acme.example', true],
    ['*@*.acme.example', '*@*.acme.example', true],
    ['*@*.acme.example', 'm@acme.example', false],
    ['*@*.site.acme.example', '*@*.acme.example', false],
    ['*@*', '*@acme.example', true],
    ['*@acme.example', '*@*', false],
    ['*@acme.example', '*@other.example', false],
  ])('%s, %s: %s', (outer, inner, is) => {
    expect(encloses(pattern(outer), pattern(inner))).toBe(is);
  });
});

describe('in its file', () => {
  let folder = '';
  let file = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'mtgate-desk-'));
    file = join(folder, 'desk.db');
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const quietHours = { from: '22:00', to: '06:00', zone: 'Europe/Berlin' };
  function fill(): Desk {
    const store = openDesk(file);
    const by = { certificate: 'ca:1' as never };
    store.write(ACME, { kind: 'authorise', authorised: { servers: ['acme-b' as never], by, atMs: 7 } });
    store.write(ACME, { kind: 'prefer', preference: preference('p1', { devices: 'm*@acme.example', quietHours }) });
    store.write(ACME, { kind: 'prefer', preference: preference('p2', { devices: 'm*@acme.example', block: true }) });
    store.write(ACME, { kind: 'drop', id: 'p2' });
    store.write(OTHER, { kind: 'authorise', authorised: { servers: [], by: BY, atMs: 8 } });
    const { desk } = store;
    store.close();
    return desk;
  }

  test('it is read again as it was said, with who said it and when', () => {
    const desk = fill();
    const store = openDesk(file);
    expect(store.desk).toEqual(desk);
    expect(deskOf(store.desk, ACME)).toMatchObject({
      authorised: { servers: ['acme-b'], by: { certificate: 'ca:1' }, atMs: 7 },
      preferences: [{ id: 'p1', by: BY, atMs: 1 }],
    });
    store.close();
  });

  const whole = (name: string) => readFileSync(join(folder, name));
  test.each([
    ['empty', () => truncateSync(file, 0)],
    ['cut off', () => truncateSync(file, 4096)],
    ['no database', () => writeFileSync(file, 'servers: []\n'.repeat(1000))],
    ['damaged in the middle', () => writeFileSync(file, whole('desk.db').fill(0x5a, 4096, 6000))],
  ])('one that is %s is not taken for a new one', (_, damage) => {
    fill();
    copyFileSync(file, join(folder, 'copy'));
    damage();
    expect(() => openDesk(file)).toThrow(expect.objectContaining({ code: 'deskInvalid' }));
    copyFileSync(join(folder, 'copy'), file);
    openDesk(file).close();
  });

  test('what cannot be written is not said', () => {
    const store = openDesk(file);
    store.close();
    const write = () => store.write(ACME, { kind: 'authorise', authorised: { servers: [], by: BY, atMs: 1 } });
    expect(write).toThrow(expect.objectContaining({ code: 'deskFailed' }));
    expect(store.desk.size).toBe(0);
  });
});
