import { expect, test } from 'vitest';
import { RequestRates } from '../../agent/core/rates.ts';
import type { ServerName } from '../../agent/core/words.ts';
import { HandClock } from '../clock.ts';

const server = 'head-end' as ServerName;

test('says when there will be fewer than a limit: when so many of the oldest are a minute old', () => {
  const clock = new HandClock();
  const rates = new RequestRates();
  const wait = (limit: number) => rates.secondsUntilBelow(limit, server, clock.monotonicNs());
  expect(wait(1)).toBe(1);
  for (const seconds of [0, 10, 10.5]) {
    clock.pass(seconds);
    rates.add(server, clock.monotonicNs());
  }
  // Made 20.5 s ago, 10.5 s ago, and now.
  expect(wait(3)).toBe(40);
  expect(wait(2)).toBe(50);
  expect(wait(1)).toBe(60);
  expect(wait(4)).toBe(1);
  clock.pass(39.4);
  expect(wait(3)).toBe(1);
  expect(rates.inLastMinute(server, clock.monotonicNs())).toBe(3);
  clock.pass(0.1);
  expect(rates.inLastMinute(server, clock.monotonicNs())).toBe(2);
  expect(wait(2)).toBe(10);
});

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
