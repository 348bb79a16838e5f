/** What the words shared by all files are read as, where an odd text must not pass for another. */
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import * as f from '../../agent/core/fields.ts';

describe('ports', () => {
  const { pattern = '' } = z.toJSONSchema(f.ports, { io: 'input' });
  const read = (text: string) => ({ port: f.ports.safeParse(text).data, inEditors: new RegExp(pattern).test(text) });

  test.each([
    ['1', 1, 1],
    ['65535', 65_535, 65_535],
    ['0080', 80, 80],
    ['1024-65535', 1024, 65_535],
    ['7000-7010', 7000, 7010],
    ['7000-7000', 7000, 7000],
  ])('%j', (text, low, high) => {
    expect(read(text)).toEqual({ port: { low, high }, inEditors: true });
  });

  // Each was once its lower port alone: of a deny, the rest would have been let by.
  test.each([
    '1024-65536',
    '20-',
    '80-http',
    '7000-7010,8000',
    '7000-7010 ',
    '7000- 7010',
    '7000-0x1f90',
    '1-2-3',
    '-80',
    '-',
    '',
    '0',
    '0-10',
    '65536',
    '99999',
    '8e3',
  ])('%j is none', (text) => {
    expect(read(text)).toEqual({ port: undefined, inEditors: false });
  });

  test('the lower one comes first', () => {
    expect(f.ports.safeParse('9-1').error?.issues).toMatchObject([{ message: expect.stringMatching(/comes first$/) }]);
  });
});
