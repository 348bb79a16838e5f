import { describe, expect, test } from 'vitest';
import { DAYS, type Day, type Hours, parseTimeOfDay, parseZone, windowAt } from '../../agent/policy/hours.ts';

const hours = (from: string, to: string, zone = 'Europe/Berlin', days: readonly Day[] = DAYS): Hours => ({
  from: parseTimeOfDay(from) ?? Number.NaN,
  to: to === '24:00' ? 1440 : (parseTimeOfDay(to) ?? Number.NaN),
  zone,
  days,
});
/** `in until 2026-01-01T…` or `out until …`. */
function at(of: Hours, utc: string): string {
  const { inside, untilMs } = windowAt(of, Date.parse(utc));
  const until = Number.isFinite(untilMs) ? new Date(untilMs).toISOString().replace(':00.000Z', 'Z') : 'ever';
  return `${inside ? 'in' : 'out'} until ${until}`;
}

describe('hours', () => {
  test('within a day: the beginning is in, the end is out', () => {
    const day = hours('06:00', '22:00');
    expect(at(day, '2026-01-15T04:59:59.999Z')).toBe('out until 2026-01-15T05:00Z');
    expect(at(day, '2026-01-15T05:00:00Z')).toBe('in until 2026-01-15T21:00Z');
    expect(at(day, '2026-01-15T20:59:59.999Z')).toBe('in until 2026-01-15T21:00Z');
    expect(at(day, '2026-01-15T21:00:00Z')).toBe('out until 2026-01-16T05:00Z');
    expect(at(day, '2026-07-15T21:00:00Z')).toBe('out until 2026-07-16T04:00Z');
  });

  test('across midnight', () => {
    const night = hours('22:00', '02:30', 'UTC');
    expect(at(night, '2026-01-15T23:59:00Z')).toBe('in until 2026-01-16T02:30Z');
    expect(at(night, '2026-01-16T00:00:00Z')).toBe('in until 2026-01-16T02:30Z');
    expect(at(night, '2026-01-16T02:30:00Z')).toBe('out until 2026-01-16T22:00Z');
    expect(at(hours('22:00', '00:00', 'UTC'), '2026-01-15T23:00:00Z')).toBe('in until 2026-01-16T00:00Z');
  });

  test('on some days, counted by the day on which they begin', () => {
    const friday = hours('22:00', '06:00', 'UTC', ['fri']); // 2026-01-16 is one
    expect(at(friday, '2026-01-17T05:00:00Z')).toBe('in until 2026-01-17T06:00Z');
    expect(at(friday, '2026-01-16T05:00:00Z')).toBe('out until 2026-01-16T22:00Z');
    expect(at(friday, '2026-01-17T06:00:00Z')).toBe('out until 2026-01-23T22:00Z');
  });

  test('days are those of the zone', () => {
    const monday = hours('00:00', '24:00', 'Pacific/Auckland', ['mon']); // UTC+13 in January
    expect(at(monday, '2026-01-18T10:59:00Z')).toBe('out until 2026-01-18T11:00Z');
    expect(at(monday, '2026-01-18T11:00:00Z')).toBe('in until 2026-01-19T11:00Z');
  });

  test('that touch are one', () => {
    const weekend = hours('00:00', '24:00', 'UTC', ['sat', 'sun']);
    expect(at(weekend, '2026-01-17T12:00:00Z')).toBe('in until 2026-01-19T00:00Z');
    expect(at(hours('00:00', '24:00'), '2026-01-17T12:00:00Z')).toBe('in until ever');
    expect(at(hours('12:00', '11:59', 'UTC'), '2026-01-17T12:00:00Z')).toBe('in until 2026-01-18T11:59Z');
  });

  test('where clocks go forward: a skipped time is the moment of the change', () => {
    // Berlin, 2026-03-29: 01:59 CET is followed by 03:00 CEST, at 01:00 UTC.
    expect(at(hours('02:30', '05:00'), '2026-03-29T00:00:00Z')).toBe('out until 2026-03-29T01:00Z');
    expect(at(hours('01:00', '02:30'), '2026-03-29T00:30:00Z')).toBe('in until 2026-03-29T01:00Z');
    expect(at(hours('02:10', '02:50'), '2026-03-29T00:59:00Z')).toBe('out until 2026-03-30T00:10Z');
    expect(at(hours('02:10', '02:50', 'Europe/Berlin', ['sun']), '2026-03-29T00:59:00Z')).toBe(
      'out until 2026-04-05T00:10Z',
    );
    expect(at(hours('22:00', '06:00'), '2026-03-28T22:00:00Z')).toBe('in until 2026-03-29T04:00Z');
  });

  test('where clocks go back: a time that comes twice is its first', () => {
    // Berlin, 2026-10-25: 02:59 CEST is followed by 02:00 CET, at 01:00 UTC.
    expect(at(hours('02:30', '05:00'), '2026-10-25T00:00:00Z')).toBe('out until 2026-10-25T00:30Z');
    expect(at(hours('02:30', '05:00'), '2026-10-25T01:10:00Z')).toBe('in until 2026-10-25T04:00Z');
    expect(at(hours('01:00', '02:30'), '2026-10-25T00:29:00Z')).toBe('in until 2026-10-25T00:30Z');
    expect(at(hours('01:00', '02:30'), '2026-10-25T01:10:00Z')).toBe('out until 2026-10-26T00:00Z');
    expect(at(hours('22:00', '06:00'), '2026-10-24T22:00:00Z')).toBe('in until 2026-10-25T05:00Z');
  });

  test('answer the same whether they were asked before or not, also where the clock goes back', () => {
    const day = hours('06:00', '22:00', 'America/New_York');
    const times = Array.from(
      { length: 400 },
      (_, i) => Date.parse('2026-03-01T00:00:00Z') + ((i * 7919) % 400) * 5_400_000,
    );
    for (const time of times) expect(windowAt(day, time)).toMatchObject(windowAt({ ...day }, time));
  });

  test('zones and times that are none', () => {
    expect(['Europe/Berlin', 'europe/berlin', 'UTC', 'America/Argentina/Ushuaia'].map(parseZone)).toEqual([
      'Europe/Berlin',
      'Europe/Berlin',
      'UTC',
      'America/Argentina/Ushuaia',
    ]);
    expect(['Europe/Berln', '+02:00', '', 'a b'].map(parseZone)).toEqual([undefined, undefined, undefined, undefined]);
    expect(['00:00', '23:59', '24:00', '6:00', '06:60', '06'].map(parseTimeOfDay)).toEqual([0, 1439, ...Array(4)]);
  });
});
