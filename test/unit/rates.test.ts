import { expect, test } from 'vitest';
import type { ServerName } from '../../agent/core/words.ts';
import { RequestRates } from '../../agent/grants/rates.ts';
import { HandClock } from '../clock.ts';

const server = 'head-end' as ServerName;

test('counts the requests of the last sixty seconds, each server alone', () => {
  const clock = new HandClock();
  const rates = new RequestRates();
  for (let i = 0; i < 100; i++) {
    rates.add(server, clock.monotonicNs());
    clock.pass(1);
  }
  expect(rates.inLastMinute(server, clock.monotonicNs())).toBe(59);
  expect(rates.inLastMinute('other' as ServerName, clock.monotonicNs())).toBe(0);
  clock.pass(58);
  expect(rates.inLastMinute(server, clock.monotonicNs())).toBe(1);
  clock.pass(1);
  expect(rates.inLastMinute(server, clock.monotonicNs())).toBe(0);
});
