/** `mtgate triggers`, on the real management socket with the real triggers behind it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Management, type ManagementUseCases, startManagement } from '../../agent/api/management.ts';
import type { WaitingRequest } from '../../agent/grants/waiting-request.ts';
import { triggerManagement } from '../../agent/use-cases/triggers.ts';
import { ask, HEAD_END, M2 } from '../gateway.ts';
import { mtgate } from '../mtgate.ts';
import { TestTriggers } from '../triggers.ts';

let folder: string;
let fixture: TestTriggers;
let management: Management;
let bare: Management;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mtgate-cli-triggers-'));
  fixture = await TestTriggers.started();
  const { log, directory, grants } = fixture.gateway;
  const useCases = {
    triggers: triggerManagement(fixture.triggers, fixture.store, directory, () => grants.policy, log),
  };
  // The rest of the socket is not asked for.
  const start = (name: string, served: object) =>
    startManagement(join(folder, name), served as ManagementUseCases, () => 1000, log);
  management = await start('agent.sock', useCases);
  bare = await start('bare.sock', {});
});
afterAll(async () => {
  await management.close();
  await bare.close();
  rmSync(folder, { recursive: true });
});

const operator = (...words: string[]) => mtgate('triggers', ...words, '--socket', join(folder, 'agent.sock'));

test('lists what is pending, shows one, recalls it; its server is told', { timeout: 60_000 }, async () => {
  expect((await operator('list')).stdout).toBe('no triggers are pending\n');
  const notification = { destination: 'https://head-end.example/told', collection: 'https://gateway.example/t' };
  const { id } = await fixture.accepted({ device: { networkAccessIdentifier: M2 }, isPriority: true, notification });
  const listed = await operator('list', '--server', 'head-end', '--device', M2, '--json');
  expect(JSON.parse(listed.stdout)).toMatchObject([{ triggerId: id, device: M2, priority: true, attempts: 0 }]);
  const shown = (await operator('show', id)).stdout;
  expect(shown).toMatch(/^state +pending$/m);
  expect(shown).toMatch(/^rule +wake of policy [0-9a-f]{16}$/m);
  expect(shown).not.toContain('d2FrZQ');

  const recalled = await operator('recall', id, 'none');
  expect([recalled.status, recalled.stdout]).toEqual([0, 'recalled 1 trigger\n']);
  expect(recalled.stderr).toContain('no pending trigger none');
  expect(fixture.told.map(({ body }) => body)).toEqual([
    { transaction: `https://gateway.example/t/${id}`, result: 'TERMINATE' },
  ]);
  expect(fixture.gateway.log.of('recallAsked')).toContainEqual(expect.objectContaining({ trigger: id, byUid: 1000 }));
  expect((await operator('show', id)).stdout).toMatch(/^state +ended: recalledByOperator, an operator recalled it$/m);
  expect((await operator('list', '--ended')).stdout).toContain(id);
  expect((await operator('recall', id)).status).toBe(1);
});

test('one that wakes a device for a grant request names it', { timeout: 60_000 }, async () => {
  const request = ask({ device: { networkAccessIdentifier: M2 } });
  const wake = { payload: new Uint8Array() };
  const waiting = await fixture.gateway.grants.requestOrWait(HEAD_END, request, 600, wake);
  const { id } = waiting as WaitingRequest;
  expect((await operator('list')).stdout).toMatch(new RegExp(`${id}$`, 'm'));
  const triggerId = fixture.triggers.ofGrant(id)?.id ?? '';
  expect((await operator('show', triggerId)).stdout).toMatch(new RegExp(`^for grant +${id}$`, 'm'));
});

test('what there is not is said', { timeout: 60_000 }, async () => {
  const none = await operator('show', 'none');
  expect([none.status, none.stderr]).toEqual([1, expect.stringContaining('no trigger none on record')]);
  for (const [words, says] of [
    [['--server', 'zz'], /^serverUnknown: unknown server "zz"; known here: head-end/],
    [['--server', 'head-ent'], /^serverUnknown: unknown server "head-ent"; did you mean "head-end"\?/],
    [['--device', 'bad'], /^deviceUnknown: no device bad is registered/],
  ] as const)
    expect(await operator('list', ...words)).toEqual({ status: 1, stdout: '', stderr: expect.stringMatching(says) });
  const without = await mtgate('triggers', 'list', '--socket', join(folder, 'bare.sock'));
  expect([without.status, without.stderr]).toEqual([1, expect.stringContaining('agent.yaml has no triggers')]);
});
