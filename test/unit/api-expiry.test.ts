/** When certificates and lists end, who is told, and how often. */
import { afterAll, describe, expect, test } from 'vitest';
import { certificateStatus, ExpiryAlarms, timesLeft } from '../../agent/api/expiry.ts';
import type { Trust } from '../../agent/api/tls.ts';
import { HandClock, KeptLog } from '../clock.ts';
import { createPki } from '../pki.ts';
import { trustOf } from './api-fixture.ts';

const HOUR_SECONDS = 3_600;
const DAY_SECONDS = 24 * HOUR_SECONDS;

const clock = new HandClock();
const start = clock.utcMs;
/** So many days after the start. */
const day = (days: number) => new Date(start + days * DAY_SECONDS * 1000);
const pki = createPki();
afterAll(() => pki.remove());
const ca = pki.ca('mtc-ca', { notBefore: day(-1), notAfter: day(400) });
const api = ca.issue({ name: 'api', usage: ['serverAuth'], notBefore: day(0), notAfter: day(90) });
const list = (from: number, to: number) => ca.crl({ thisUpdate: day(from), nextUpdate: day(to) });

function trust(crl: string, own = api): Trust {
  const { certificate, key } = own;
  const clientCas = [{ name: 'mtc-ca', pem: ca.certificate, crl }];
  return trustOf({ certificate, key, clientCas, minimumVersion: 'TLSv1.3' });
}

/** Looks every hour for some days; what was logged, and after how many days. */
function watch(days: number, of: (day: number) => Trust) {
  const log = new KeptLog();
  const hands = new HandClock();
  const alarms = new ExpiryAlarms(log, hands);
  const seen: string[] = [];
  for (let hour = 0; hour < days * 24; hour++) {
    const from = log.lines.length;
    alarms.look(of(hour / 24));
    for (const { level, event, kind = '' } of log.lines.slice(from))
      seen.push(`${hour / 24} ${level} ${event} ${kind}`);
    hands.pass(HOUR_SECONDS);
  }
  return seen;
}

test('the status shows each with its end', () => {
  expect(certificateStatus(trust(list(0, 7)), start)).toEqual([
    { name: 'api', kind: 'server', notAfter: day(90).toISOString(), usable: true, daysLeft: 90 },
    { name: 'mtc-ca', kind: 'clientCa', notAfter: day(400).toISOString(), usable: true, daysLeft: 400 },
    { name: 'mtc-ca', kind: 'crl', nextUpdate: day(7).toISOString(), usable: true, daysLeft: 7 },
  ]);
  const late = certificateStatus(trust(list(0, 7)), day(401).getTime());
  expect(late.map(({ usable, daysLeft }) => [usable, daysLeft])).toEqual([
    [false, -311],
    [false, -1],
    [true, 0],
  ]);
  expect(certificateStatus(trust('no list'), start).at(-1)).toEqual({
    name: 'mtc-ca',
    kind: 'crl',
    usable: false,
    daysLeft: 0,
    why: 'holds no X509 CRL in PEM',
  });
});

test('the metrics show seconds', () => {
  expect(
    timesLeft(trust(list(0, 7)), day(8).getTime()).map(({ kind, usable, secondsLeft }) => [kind, usable, secondsLeft]),
  ).toEqual([
    ['server', true, 82 * DAY_SECONDS],
    ['clientCa', true, 392 * DAY_SECONDS],
    ['crl', false, -DAY_SECONDS],
  ]);
});

describe('the alarm', () => {
  test('about a certificate comes once a day, from 14 days before its end', () => {
    const whole = trust(list(0, 200));
    const seen = watch(92, () => whole);
    expect(seen.slice(0, 3)).toEqual([
      '76 warn certificateEndsSoon server',
      '77 warn certificateEndsSoon server',
      '78 warn certificateEndsSoon server',
    ]);
    expect(seen.slice(-2)).toEqual(['90 warn certificateEndsSoon server', '91 warn certificateEnded server']);
    expect(seen.length).toBe(16);
  });

  test('about what lives shortly comes in the last quarter of its life', () => {
    const short = ca.issue({ name: 'short', usage: ['serverAuth'], notBefore: day(0), notAfter: day(4) });
    const whole = trust(list(0, 200), short);
    expect(watch(4, () => whole)).toEqual(['3 warn certificateEndsSoon server']);
  });

  test('about a list comes a day before its end, and as an error, once, when it has ended', () => {
    const [first, second] = [trust(list(0, 7)), trust(list(6, 17))];
    expect(watch(12, (today) => (today < 10 ? first : second))).toEqual([
      '6 warn certificateEndsSoon crl',
      '7 warn certificateEndsSoon crl',
      `${7 + 1 / 24} error crlUnusable `,
      '8 warn certificateEnded crl',
      '9 warn certificateEnded crl',
      '10 info crlUsable ',
    ]);
  });

  test('about a file that is no list comes once, and again where it is another fault', () => {
    const [none, half, good] = [trust(''), trust(list(0, 7).slice(0, 200)), trust(list(0, 30))];
    expect(watch(3, (today) => (today < 1 ? none : today < 2 ? half : good))).toEqual([
      '0 error crlUnusable ',
      '1 error crlUnusable ',
      '2 info crlUsable ',
    ]);
  });
});
