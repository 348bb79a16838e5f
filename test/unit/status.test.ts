/** What the agent keeps for `mtgate status`, and how times are shown. */
import { expect, test } from 'vitest';
import { span } from '../../agent/cli/times.ts';
import { takesFrames, xdpChoice } from '../../agent/closure/site.ts';
import { FaultKeepingLog } from '../../agent/use-cases/last-fault.ts';
import { RecentDenials } from '../../agent/use-cases/recent-denials.ts';
import { HandClock, KeptLog } from '../clock.ts';

test('denials of the last minute: not those before, and none made up', () => {
  const clock = new HandClock();
  const recent = new RecentDenials(clock.monotonicNs(), 1000n);
  expect(recent.inLastMinute(clock.monotonicNs(), 1000n)).toBe(0); // the gate counted before this agent came
  for (let second = 0; second <= 90; second++) {
    recent.note(clock.monotonicNs(), 1000n + BigInt(second) * 2n);
    clock.pass(1);
  }
  // The oldest look within the minute was 60 s ago: 31 s after the first.
  expect(recent.inLastMinute(clock.monotonicNs(), 1180n)).toBe(1180 - (1000 + 31 * 2));
  clock.pass(120);
  expect(recent.inLastMinute(clock.monotonicNs(), 5000n)).toBe(0);
});

test('the last fault is kept, with its time; the log hears all', () => {
  const clock = new HandClock();
  const kept = new KeptLog();
  const log = new FaultKeepingLog(kept, clock);
  expect(log.last).toBeUndefined();
  log.error({ gap: 'no table' }, 'gapFound');
  clock.pass(1);
  log.info({}, 'gapRepaired');
  log.warn({}, 'configurationWarning');
  log.debug({}, 'ready');
  expect(log.last).toEqual({ at: '2026-01-01T12:00:00.000Z', event: 'gapFound', fields: { gap: 'no table' } });
  expect(kept.lines.map(({ level, event }) => `${level} ${event}`)).toEqual([
    'error gapFound',
    'info gapRepaired',
    'warn configurationWarning',
    'debug ready',
  ]);
});

test.each([
  [0.04, '0.0 s'],
  [9.94, '9.9 s'],
  [59.6, '1 min'],
  [598, '9 min 58 s'],
  [3600, '1 h'],
  [90_061, '1 d 1 h'],
])('%s seconds are %s', (seconds, text) => {
  expect(span(seconds)).toBe(text);
});

const HIDDEN = 'its hardware hides VLAN tags from XDP: ethtool -K eth0 rxvlan off rx-vlan-stag-hw-parse off';
const link = { name: 'eth0', ifindex: 2, kind: 'ether', mtu: 1500, addresses: [] };

test.each([
  ['auto', link, 'native', 'its driver has it'],
  ['auto', { ...link, virtual: 'veth' }, undefined, 'a veth gains nothing by it'],
  ['auto', { ...link, virtual: 'vlan' }, undefined, 'a vlan gains nothing by it'],
  ['auto', { ...link, virtual: 'bond' }, undefined, 'a bond gains nothing by it'],
  ['auto', { ...link, kind: 'none', virtual: 'tun' }, undefined, 'its frames have no Ethernet header'],
  ['xdp', { ...link, kind: 'none', virtual: 'tun' }, undefined, 'its frames have no Ethernet header'],
  ['xdp', { ...link, virtual: 'veth' }, 'native', 'as configured'],
  ['xdp-generic', { ...link, virtual: 'vlan' }, 'generic', 'as configured'],
  ['tc', link, undefined, 'as configured'],
  ['auto', { ...link, takesTags: true }, undefined, HIDDEN],
  ['xdp', { ...link, takesTags: true }, undefined, HIDDEN],
  ['xdp-generic', { ...link, takesTags: true }, undefined, HIDDEN],
  ['auto', { ...link, takesTags: false }, 'native', 'its driver has it'],
] as const)('with hook: %s an interface such as %o hangs the gate at XDP: %s', (asked, one, mode, why) => {
  expect(xdpChoice(asked, one)).toEqual({ ...(mode && { mode }), why });
});

test('an interface takes redirected frames if the kernel says so; where it does not, if XDP was asked for there', () => {
  expect(takesFrames({ ...link, takesFrames: true }, 'auto')).toBe(true);
  expect(takesFrames({ ...link, takesFrames: false }, 'xdp')).toBe(false);
  expect([takesFrames(link, 'auto'), takesFrames(link, 'xdp')]).toEqual([false, true]);
  expect(takesFrames({ ...link, kind: 'none', takesFrames: true }, 'xdp')).toBe(false); // a TUN wants no Ethernet header
});
