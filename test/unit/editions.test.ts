/**
 * Editions: what is in force, what goes back, what is on disk. The real store
 * and the real grants on the twin; the test holds the clock.
 */
import { chownSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { AgentError } from '../../agent/core/errors.ts';
import { type EditionStore, openEditions } from '../../agent/editions/edition-store.ts';
import { PolicySwitch } from '../../agent/editions/policy-switch.ts';
import { compileRules } from '../../agent/files/operator-files.ts';
import { readRuleFolder } from '../../agent/files/rule-folder.ts';
import type { Policy } from '../../agent/policy/policy.ts';
import { putAside } from '../../agent/sqlite/usable-file.ts';
import { ask, HEAD_END, RULES, TestGateway } from '../gateway.ts';

const ROOT = { uid: 0, name: 'root' };
const NARROW = RULES.replace('ports: [5683, "7000-7010"]', 'ports: ["7000-7010"]');
const WIDE = RULES.replace('"7000-7010"', '"7000-7999"');

let home: string;
let store: EditionStore;
let gateway: TestGateway;
/** What the next switches fail with. */
let faults: Error[];
let disk: 'works' | 'full';

const file = () => join(home, 'editions.db');
const write = (text: string, name = 'rules.yaml') => writeFileSync(join(home, 'rules', name), text);

beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), 'mtgate-editions-'));
  mkdirSync(join(home, 'rules'));
  write(RULES);
  gateway = await TestGateway.started();
  faults = [];
  disk = 'works';
  store = openEditions(file());
});
afterEach(() => {
  store.close();
  rmSync(home, { recursive: true });
});

/** A start of the agent, over what is on disk; `only` stands for what agent.yaml demands of rules. */
async function begin({
  autoApply = false,
  only = () => true,
}: {
  autoApply?: boolean;
  only?: (text: string) => boolean;
} = {}): Promise<PolicySwitch> {
  store.close();
  store = openEditions(file());
  const policies = await PolicySwitch.begin({
    store: {
      ...store,
      add: (edition) => {
        if (disk === 'full') throw new AgentError('editionsFailed', 'database or disk is full');
        store.add(edition);
      },
      confirm: (...words) => {
        if (disk === 'full') throw new AgentError('editionsFailed', 'database or disk is full');
        store.confirm(...words);
      },
    },
    readFolder: () => readRuleFolder({ folder: join(home, 'rules'), autoApply }),
    compile: async (files, edition) => {
      if (!files.every(({ text }) => only(text))) throw new AgentError('rulesInvalid', 'rules.yaml:3:1: no such CA');
      const where = edition === undefined ? 'rules' : `edition-${edition}`;
      return { policy: compileRules(files, where, undefined, () => {}), warnings: [] };
    },
    autoApply,
    clock: gateway.clock,
    log: gateway.log,
  });
  await gateway.grants.switchPolicy(policies.inForce.policy);
  policies.enforceBy(async (policy: Policy) => {
    const fault = faults.shift();
    if (fault) throw fault;
    await gateway.grants.switchPolicy(policy);
  });
  await policies.keep();
  return policies;
}

async function applied(policies: PolicySwitch, text: string, confirmSeconds?: number) {
  write(text);
  const shown = await policies.propose();
  if ('refused' in shown) throw new Error(shown.why);
  const { digest, inForce } = shown;
  return policies.apply({ digest, inForce, confirmSeconds, comment: 'a try' }, ROOT);
}

const opens = async (devicePort: number) => 'id' in (await gateway.grants.request(HEAD_END, ask({ devicePort })));
const line = (policies: PolicySwitch) =>
  policies.history(9).map(({ number, how, by }) => `${number} ${how} by ${by.name}`);

describe('apply', () => {
  test('the folder becomes edition 1; later what was applied, not what lies there, is in force', async () => {
    const first = await begin();
    expect(first.inForce.edition).toMatchObject({ number: 1, how: 'start', by: { name: 'start' } });
    write(WIDE);
    const again = await begin();
    expect(again.inForce.edition.number).toBe(1);
    expect(await opens(7900)).toBe(false);

    expect(await applied(again, WIDE)).toMatchObject({
      number: 2,
      version: again.inForce.policy.version,
      how: 'apply',
      by: ROOT,
      comment: 'a try',
      changed: ['rule meters changed: match.ports: 7000-7999 added; match.ports: 7000-7010 removed'],
    });
    expect(await opens(7900)).toBe(true);
    expect((await begin()).edition(2)?.files).toEqual([{ file: 'rules.yaml', text: WIDE }]);
  });

  test('grants that are not allowed any more end', async () => {
    const policies = await begin();
    const grant = await gateway.grants.request(HEAD_END, ask());
    await applied(policies, NARROW);
    expect(gateway.grants.find('id' in grant ? grant.id : '')).toMatchObject({ endCause: 'ruleChanged' });
  });

  test('is of what was shown, and of nothing else', async () => {
    const policies = await begin();
    write(WIDE);
    const shown = await policies.propose();
    if ('refused' in shown) throw new Error(shown.why);
    write(NARROW);
    expect(await policies.apply(shown, ROOT)).toMatchObject({ refused: 'changedMeanwhile' });
    await applied(policies, NARROW);
    write(WIDE);
    expect(await policies.apply(shown, ROOT)).toMatchObject({ refused: 'changedMeanwhile' }); // it was against edition 1
    expect(await policies.apply({ ...shown, inForce: 2 }, ROOT)).toMatchObject({ number: 3 });
    expect(await policies.apply({ ...shown, inForce: 3 }, ROOT)).toMatchObject({ refused: 'sameAsInForce' });
  });

  test('invalid rules, or a test that fails: what was in force stays, and nothing is on record', async () => {
    const policies = await begin();
    write(RULES.replace('servers: [head-end], protocols', 'servers: [nobody], protocols'));
    await expect(policies.propose()).rejects.toMatchObject({ code: 'rulesInvalid' });
    write(
      `${RULES}tests:\n  - { name: t, request: { server: head-end, device: m1@meters.example, protocol: udp, port: 1, durationSeconds: 9 }, expect: { allow: meters } }\n`,
    );
    await expect(policies.apply({ digest: 'x', inForce: 1 }, ROOT)).rejects.toThrow(/test "t": expected allow meters/);
    expect(line(policies)).toEqual(['1 start by start']);
  });

  test('one at a time', async () => {
    const policies = await begin();
    write(WIDE);
    const shown = await policies.propose();
    if ('refused' in shown) throw new Error(shown.why);
    const [one, other] = await Promise.all([policies.apply(shown, ROOT), policies.apply(shown, ROOT)]);
    expect(one).toMatchObject({ number: 2 });
    expect(other).toMatchObject({ refused: 'applyUnderWay' });
  });

  test('a disk that takes nothing: refused, nothing has changed', async () => {
    const policies = await begin();
    disk = 'full';
    await expect(applied(policies, WIDE)).rejects.toMatchObject({ code: 'editionsFailed' });
    expect(policies.inForce.edition.number).toBe(1);
    expect(await opens(7900)).toBe(false);
  });

  test('a switch that fails is gone back from, and both are on record', async () => {
    const policies = await begin();
    faults = [new AgentError('gateFault', 'no room in the map')];
    await expect(applied(policies, WIDE)).rejects.toMatchObject({ code: 'gateFault' });
    expect(line(policies)).toEqual(['3 wentBack by agent', '2 apply by root', '1 start by start']);
    expect(policies.history(1)[0]?.comment).toBe('edition 2 could not be put in force: no room in the map');
    expect(await opens(7900)).toBe(false);
    expect((await begin()).inForce.edition.number).toBe(3);
  });
});

describe('on trial', () => {
  test('it goes back by itself, and not before its time', async () => {
    const policies = await begin();
    expect(await applied(policies, WIDE, 60)).toMatchObject({ number: 2, confirmByMs: gateway.clock.nowMs() + 60_000 });
    gateway.clock.pass(59);
    await policies.keep();
    expect(policies.secondsLeft).toBe(1);
    expect(await opens(7900)).toBe(true);
    gateway.clock.pass(1);
    expect(await policies.confirm(ROOT)).toMatchObject({ refused: 'nothingToConfirm' });
    await policies.keep();
    expect(policies.secondsLeft).toBeUndefined();
    expect(policies.inForce.edition).toMatchObject({
      ...{ number: 3, how: 'wentBack', by: { name: 'agent' }, changed: ['as edition 1'] },
      comment: 'edition 2 was not confirmed in time',
    });
    expect(await opens(7901)).toBe(false);
    expect(gateway.log.of('policyWentBack').at(-1)).toMatchObject({ level: 'error', edition: 3, left: 2 });
    expect([...gateway.grants.live.all()]).toEqual([]); // what only edition 2 allowed
  });

  test('confirmed, it stays', async () => {
    const policies = await begin();
    await applied(policies, WIDE, 60);
    expect(await policies.confirm({ uid: 7, name: 'ann' })).toMatchObject({ confirmed: { by: { name: 'ann' } } });
    expect(await policies.confirm(ROOT)).toMatchObject({ refused: 'nothingToConfirm' });
    gateway.clock.pass(61);
    await policies.keep();
    const after = await begin();
    expect(after.inForce.edition).toMatchObject({ number: 2, confirmed: { by: { uid: 7, name: 'ann' } } });
  });

  test('no other is applied meanwhile; a rollback ends it at once', async () => {
    const policies = await begin();
    await applied(policies, WIDE, 60);
    expect(await applied(policies, NARROW)).toMatchObject({
      refused: 'applyUnderWay',
      why: 'edition 2 is on trial for another 60 s: mtgate confirm, or mtgate rollback',
    });
    const shown = await policies.propose('before');
    if ('refused' in shown) throw new Error(shown.why);
    expect(await policies.apply(shown, ROOT)).toMatchObject({ number: 3, how: 'wentBack', of: 1, by: ROOT });
    expect(policies.secondsLeft).toBeUndefined();
    expect(await policies.propose('before')).toEqual({
      refused: 'editionUnknown',
      why: 'nothing came before edition 1',
    });
  });

  test.each(['at once', 'after its time'])('the agent was killed: the next start goes back (%s)', async (when) => {
    await applied(await begin(), WIDE, 60);
    if (when !== 'at once') gateway.clock.pass(100);
    const policies = await begin();
    expect(policies.inForce.edition).toMatchObject({ number: 3, how: 'wentBack', by: { name: 'start' } });
    expect(await opens(7900)).toBe(false);
    expect(line(await begin())).toHaveLength(3); // and no further
  });

  test('a disk that takes nothing does not keep it from going back; the record follows', async () => {
    const policies = await begin();
    await applied(policies, WIDE, 60);
    disk = 'full';
    await expect(policies.confirm(ROOT)).rejects.toMatchObject({ code: 'editionsFailed' });
    gateway.clock.pass(60);
    await policies.keep();
    expect(await opens(7900)).toBe(false);
    expect(gateway.log.of('editionNotWritten')).toHaveLength(1);
    expect(line(policies)).toHaveLength(2);
    disk = 'works';
    await policies.keep();
    expect(line(policies)).toHaveLength(3);
    expect(await applied(policies, NARROW)).toMatchObject({ number: 4 });
  });

  test('going back that fails is tried again, and told each time', async () => {
    const policies = await begin();
    await applied(policies, WIDE, 60);
    faults = [new Error('busy'), new Error('busy')];
    gateway.clock.pass(60);
    await policies.keep();
    await policies.keep(); // not due again yet
    expect(policies.secondsLeft).toBe(0);
    expect(await policies.confirm(ROOT)).toMatchObject({ refused: 'nothingToConfirm' });
    gateway.clock.pass(5);
    await policies.keep();
    gateway.clock.pass(5);
    await policies.keep();
    expect(gateway.log.of('notGoneBack')).toMatchObject([{ edition: 2, backTo: 1, message: 'busy' }, { backTo: 1 }]);
    expect(policies.inForce.edition).toMatchObject({ number: 3, how: 'wentBack' });
  });
});

describe('rollback', () => {
  test('to the one before, or to any that is kept, as an edition of its own', async () => {
    const policies = await begin();
    await applied(policies, WIDE);
    await applied(policies, NARROW);
    const shown = await policies.propose(1);
    if ('refused' in shown) throw new Error(shown.why);
    expect(shown.changes).toMatchObject([{ name: 'meters', members: ['match.ports: 5683 added'] }]);
    expect(await policies.apply({ ...shown, confirmSeconds: 5 }, ROOT)).toMatchObject({ number: 4, how: 'rollback' });
    gateway.clock.pass(5);
    await policies.keep();
    expect(policies.inForce.edition).toMatchObject({ number: 5, changed: ['as edition 3'] });
    expect(await policies.propose('before')).toMatchObject({ of: 2 }); // not 4, which was gone back from
    expect(await policies.propose(77)).toMatchObject({ refused: 'editionUnknown' });
  });
});

describe('with autoApply', () => {
  test('the folder is in force at a start and when asked; invalid, the edition in force goes on', async () => {
    await begin({ autoApply: true });
    write(WIDE);
    const policies = await begin({ autoApply: true });
    expect(policies.inForce.edition).toMatchObject({ number: 2, how: 'autoApply', by: { name: 'agent' } });
    expect(await policies.autoApply()).toBeUndefined();
    write(NARROW);
    expect(await policies.autoApply()).toMatchObject({ number: 3 });
    write('sevrers: {}');
    await expect(policies.autoApply()).rejects.toMatchObject({ code: 'rulesInvalid' });
    expect((await begin({ autoApply: true })).inForce.edition.number).toBe(3);
    expect(gateway.log.of('autoApplyFailed')).toMatchObject([{ message: expect.stringContaining('sevrers') }]);
  });

  test('what was gone back from is not applied again by itself', async () => {
    await applied(await begin({ autoApply: true }), WIDE, 60);
    const policies = await begin({ autoApply: true });
    expect(policies.inForce.edition).toMatchObject({ number: 3, how: 'wentBack' });
    expect(await policies.autoApply()).toBeUndefined();
    write(NARROW);
    expect(await policies.autoApply()).toMatchObject({ number: 4 });
  });

  test('it takes the place of an edition that does not fit any more', async () => {
    await begin();
    write(WIDE);
    const policies = await begin({ autoApply: true, only: (text) => text === WIDE });
    expect(policies.inForce.edition).toMatchObject({ number: 2, how: 'autoApply' });
  });
});

test('an edition that does not fit agent.yaml any more: no start, and what to do', async () => {
  await begin();
  for (const autoApply of [false, true]) {
    const fault = await begin({ autoApply, only: () => false }).catch((why: AgentError) => why);
    expect(fault).toMatchObject({
      code: 'editionUnfit',
      message: 'edition 1, which is in force, does not fit agent.yaml (or this mtgate):\nrules.yaml:3:1: no such CA',
      advice: expect.stringContaining('mtgate apply --offline'),
    });
  }
});

describe('the file', () => {
  test('keeps the last hundred, and each text once', async () => {
    const head = { version: 'v', atMs: 1, by: ROOT, how: 'apply', changed: [], digest: 'd' } as const;
    for (let number = 1; number <= 130; number++)
      store.add({
        ...head,
        number,
        files: [
          { file: 'a.yaml', text: 'same' },
          { file: 'b.yaml', text: `${number % 3}` },
        ],
      });
    expect(store.history(999).map(({ number }) => number)).toEqual(Array.from({ length: 100 }, (_, i) => 130 - i));
    expect(store.edition(30)).toBeUndefined();
    expect(store.last()?.files).toEqual([
      { file: 'a.yaml', text: 'same' },
      { file: 'b.yaml', text: '1' },
    ]);
    store.close();
    expect(readFileSync(file()).toString('latin1').split('same')).toHaveLength(2 + 1); // in its table and its index
    store = openEditions(file());
  });

  test.runIf(process.getuid?.() === 0)(
    "made by root, it is the folder's owner's, as is what SQLite puts beside it",
    () => {
      const folder = join(home, 'service');
      mkdirSync(folder);
      chownSync(folder, 12_345, 12_346);
      const made = openEditions(join(folder, 'editions.db'));
      made.add({ number: 1, version: 'v', atMs: 1, by: ROOT, how: 'offline', changed: [], digest: 'd', files: [] });
      const owners = readdirSync(folder).map((name) => [name, statSync(join(folder, name)).uid]);
      made.close();
      expect(owners).toEqual(['', '-shm', '-wal'].map((end) => [`editions.db${end}`, 12_345]));
    },
  );

  test('that is damaged, or of another program or version, fails the start; put aside, a new one begins', () => {
    store.close();
    writeFileSync(file(), 'not a database at all, but long enough to look at\n'.repeat(50));
    expect(() => openEditions(file())).toThrow(
      expect.objectContaining({ code: 'editionsInvalid', advice: expect.stringContaining('mtgate apply --offline') }),
    );
    putAside(file(), 'damaged');
    store = openEditions(file());
    expect(store.last()).toBeUndefined();
    expect(readFileSync(`${file()}.unusable`, 'utf8')).toContain('not a database');
  });
});
