/** What is staged is judged, told and counted, and never enforced. */
import { describe, expect, test } from 'vitest';
import { runPolicyTests } from '../../agent/policy/policy-tests.ts';
import { ask, HEAD_END, policyOf, RULES, TestGateway } from '../gateway.ts';
import { formatted, issuesOf } from '../issues.ts';
import { compiled, policyOf as policyOfFiles } from '../rules.ts';

const STAGED_DENY = `${RULES}  - { id: later, stage: true, deny: { ports: [5683], reason: not any more } }\n`;
const STAGED_ALLOW = `${RULES}  - { id: soon, stage: true, allow: { ports: [6000] }, limits: { durationSeconds: 60 } }\n`;
const STAGED_LONGER = `${RULES}  - { id: longer, stage: true, allow: { ports: [5683] }, limits: { durationSeconds: 3600 } }\n`;
const lines = (gateway: TestGateway) => gateway.log.of('wouldHave').map(({ event, level, ...rest }) => rest);
const named = { server: 'head-end', device: 'm1@meters.example', correlator: 'c-1' };
const asking = { ...named, from: '198.51.100.10' };

describe('a staged rule', () => {
  test('that would refuse: the grant is opened, and it is told', async () => {
    const gateway = await TestGateway.started(STAGED_DENY);
    expect(await gateway.grants.request(HEAD_END, ask())).toMatchObject({ state: 'live', rule: 'meters' });
    const refusal = { would: 'refuse', rule: 'later', staged: 'refuse deniedByRule (not any more)' };
    expect(lines(gateway)).toEqual([
      { ...asking, to: 'udp/5683', durationSeconds: 600, ...refusal, decided: 'allow meters for 600 s' },
    ]);
    expect(gateway.staged).toEqual(['later refuse 1']);
  });

  test('that would allow: the request is refused as before', async () => {
    const gateway = await TestGateway.started(STAGED_ALLOW);
    expect(await gateway.grants.request(HEAD_END, ask({ devicePort: 6000 }))).toMatchObject({ reason: 'noRuleAllows' });
    expect(gateway.staged).toEqual(['soon allow 1']);
  });

  test('that would grant other terms', async () => {
    const gateway = await TestGateway.started(STAGED_LONGER);
    expect(await gateway.grants.request(HEAD_END, ask({ durationSeconds: 1000 }))).toMatchObject({
      grantedSeconds: 900,
    });
    expect(gateway.staged).toEqual(['longer otherwise 1']);
  });

  test('is judged with an extension, too', async () => {
    const gateway = await TestGateway.started();
    const record = await gateway.grants.request(HEAD_END, ask());
    await gateway.grants.switchPolicy(policyOf(STAGED_DENY));
    expect(gateway.staged).toEqual(['later end 1']);
    expect(await gateway.extensions.extend(HEAD_END, (record as { id: string }).id, 900)).toMatchObject({
      state: 'live',
    });
    expect(gateway.staged).toEqual(['later end 1', 'later refuse 1']);
  });

  test('that would end live grants is told once for all of them', async () => {
    const gateway = await TestGateway.started();
    await gateway.grants.request(HEAD_END, ask());
    await gateway.grants.request(HEAD_END, ask({ protocol: 'tcp' }));
    await gateway.grants.request(HEAD_END, ask({ devicePort: 7000 }));
    await gateway.grants.switchPolicy(policyOf(STAGED_DENY));
    expect(gateway.grants.live.size).toBe(3);
    expect(lines(gateway)).toEqual([{ would: 'end', rule: 'later', grants: 2, liveGrants: 3 }]);
  });

  test('that makes no difference is not told', async () => {
    const gateway = await TestGateway.started(STAGED_DENY);
    await gateway.grants.request(HEAD_END, ask({ devicePort: 7000 }));
    expect(lines(gateway)).toEqual([]);
  });
});

describe('a policy', () => {
  test('has what is staged beside it only where there is some, and another version then', () => {
    const [plain, staged] = [policyOf(RULES), policyOf(STAGED_DENY)];
    expect(plain.staged).toBeUndefined();
    expect(staged.denies.map(({ id }) => id)).toEqual(['no-telnet']);
    expect(staged.staged?.denies.map(({ id }) => id)).toEqual(['later', 'no-telnet']);
    const versions = [plain, staged, policyOf(STAGED_DENY.replace('true', 'false'))].map(({ version }) => version);
    expect(new Set(versions).size).toBe(3);
    expect(staged.staged?.version).toBe(versions[2]);
  });

  test('has all rules of a staged file staged, but for those that say otherwise', () => {
    const file = `stage: true
rules:
  - { id: x, deny: { reason: x } }
  - { id: y, stage: false, deny: { reason: y } }
`;
    const policy = policyOfFiles(RULES, file);
    expect(policy.denies.map(({ id }) => id)).toEqual(['no-telnet', 'y']);
    expect(policy.staged?.denies.map(({ id }) => id)).toEqual(['no-telnet', 'x', 'y']);
  });

  test('cannot have servers or MTC users staged', () => {
    expect(issuesOf(compiled(`stage: true\n${RULES}`))).toEqual([
      'a.yaml:3:1: expected no servers in a staged file; move them to another',
      'a.yaml:6:1: expected no mtcUsers in a staged file; move them to another',
    ]);
  });

  test('has its staged tests judged with all of it enforced', () => {
    const request = '{ server: head-end, device: m1@meters.example, protocol: udp, port: 6000, durationSeconds: 60 }';
    const tests = (stage: string) => `${STAGED_ALLOW}tests:
  - { name: now, request: ${request}, expect: { refuse: noRuleAllows } }
  - { name: then, ${stage}request: ${request}, expect: { allow: soon } }
`;
    expect(runPolicyTests(policyOf(tests('stage: true, '))).map(formatted)).toEqual([]);
    expect(issuesOf(compiled(tests('')))).toEqual([
      'a.yaml:16:142: rule "soon" is staged; a test of it says stage: true, too',
    ]);
  });
});
