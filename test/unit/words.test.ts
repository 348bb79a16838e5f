import { expect, test } from 'vitest';
import { parseExternalId, parseImsi, parseMsisdn } from '../../agent/core/words.ts';

test.each([
  ['m1@meters.acme.example', 'm1@meters.acme.example'],
  ['M-1!*@Meters.ACME.Example', 'M-1!*@meters.acme.example'],
  [`${'x'.repeat(64)}@a.example`, `${'x'.repeat(64)}@a.example`],
])('%s is an external identifier; its domain is in lower case', (text, id) => {
  expect(parseExternalId(text)).toBe(id);
});

test.each([
  '',
  'm1',
  '@a.example',
  'm1@',
  'm1@@a.example',
  'm 1@a.example',
  'mé@a.example',
  'm1@a..example',
  'm1@.example',
  'm1@example.',
  `${'x'.repeat(65)}@a.example`,
])('"%s" is no external identifier', (text) => {
  expect(parseExternalId(text)).toBeUndefined();
});

test('an MSISDN is E.164, kept without its plus sign', () => {
  expect(parseMsisdn('+491715550100')).toBe('491715550100');
  expect(parseMsisdn('491715550100')).toBe('491715550100');
  for (const text of ['', '+', '0171555', '1234', '1234567890123456', '+49 171', '++491715550100']) {
    expect(parseMsisdn(text), text).toBeUndefined();
  }
});

test('an IMSI is 6 to 15 digits', () => {
  expect(parseImsi('001010123456789')).toBe('001010123456789');
  for (const text of ['', '12345', '0010101234567890', '+00101', '00101a'])
    expect(parseImsi(text), text).toBeUndefined();
});
