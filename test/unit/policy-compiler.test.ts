import { describe, expect, test } from 'vitest';
import { compileApart, keepingLast } from '../../agent/files/policy-compiler.ts';
import { Assembly, piecesOf } from '../../agent/files/policy-pieces.ts';
import { identify } from '../../agent/policy/certificate-holders.ts';
import type { Policy } from '../../agent/policy/policy.ts';
import { ROOT } from '../child.ts';
import { formatted } from '../issues.ts';
import { compiled, policyOf } from '../rules.ts';

const WORKER = new URL(`file://${ROOT}dist/files/policy-worker.js`);
const RULES = `servers:
  acme: { certificates: [{ uri: "urn:a" }, { sha256: "${'ab'.repeat(32)}" }], sources: [198.51.100.0/25, "2001:db8:6::/48"] }
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [acme] }
rules:
${Array.from({ length: 600 }, (_, i) => `  - { id: r${i}, allow: { ports: [${i + 1}] }, limits: { durationSeconds: 9 } }`).join('\n')}
  - { id: none, allow: { devices: ["*@other.example"] }, limits: { durationSeconds: 9 } }
`;
const apart = (text: string, bounds?: Parameters<typeof compileApart>[2]) =>
  compileApart(WORKER, { files: [{ file: 'a.yaml', text }], surroundings: {} }, bounds);
const failing = `${RULES}tests:
  - { name: no, request: { server: acme, device: m@acme.example, protocol: udp, port: 999, durationSeconds: 9 }, expect: { allow: r1 } }
`;

describe('a policy compiled in a thread of its own', () => {
  test('is the policy that is compiled here, frozen, with its warnings', async () => {
    const [there, here] = [await apart(RULES), compiled(RULES)];
    expect(there).toEqual(here);
    const { policy } = there as { policy: Policy };
    expect([policy, policy.allows, policy.allows[599]?.match.ports?.[0]].every((part) => Object.isFrozen(part))).toBe(
      true,
    );
    // Two certificates of one holder are one identity, although the two came in pieces.
    expect(identify(policy, { uris: ['urn:a'], spkiSha256: 'ab'.repeat(32) })).toEqual({
      role: 'server',
      name: 'acme',
    });
  });

  test('has its staged policy with it', async () => {
    const staging = `${RULES}  - { id: s, deny: { ports: [5], reason: no }, stage: true }\n`;
    const there = await apart(staging);
    expect(there).toEqual(compiled(staging));
    expect('policy' in there && there.policy.staged?.denies.map(({ id }) => id)).toEqual(['s']);
  });

  test('is none where the files have issues, or its own tests fail', async () => {
    expect(await apart('servers: {')).toEqual(compiled('servers: {'));
    const tested = await apart(failing);
    expect('issues' in tested && tested.issues.map(formatted)).toEqual([
      'a.yaml:608:5: test "no": expected allow r1, found refuse noRuleAllows (no allow matches)',
    ]);
  });

  test('may take so much memory and time, and no more: then it is a fault, and the agent lives on', async () => {
    const wide = Array.from({ length: 60_000 }, (_, i) => `  - { id: r${i}, deny: { reason: no } }`);
    const memoryMost = { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 4 };
    await expect(apart(`rules:\n${wide.join('\n')}`, { memoryMost })).rejects.toMatchObject({
      code: 'policyNotCompiled',
      message: 'the rule files were not compiled: it took more memory than it may',
    });
    await expect(apart(RULES, { timeMostMs: 1 })).rejects.toMatchObject({
      code: 'policyNotCompiled',
      message: 'the rule files were not compiled: it took more than 0.001 s',
    });
  });

  test('whose code is not there is a fault', async () => {
    const nowhere = new URL(`file://${ROOT}dist/files/no-worker.js`);
    await expect(compileApart(nowhere, { files: [], surroundings: {} })).rejects.toMatchObject({
      code: 'policyNotCompiled',
    });
  });
});

test('the same texts are compiled once, others anew, and a fault is not kept', async () => {
  const asked: string[] = [];
  const compile = keepingLast(async ([first], where) => {
    asked.push(`${where} ${first?.text}`);
    if (first?.text === 'bad') throw new Error('bad');
    return policyOf('servers: {}');
  });
  const files = (text: string) => [{ file: 'a.yaml', text }];
  const first = await compile(files('x'), 'rules');
  await expect(compile(files('bad'), 'rules')).rejects.toThrow('bad');
  expect(await compile(files('x'), 'rules')).toBe(first);
  await compile(files('y'), 'rules');
  await compile(files('y'), 'edition-3');
  expect(asked).toEqual(['rules x', 'rules bad', 'rules y', 'edition-3 y']);
});

test('a policy in pieces is the same put together, one within it too', () => {
  const policy = policyOf(RULES);
  const staged = { ...policy, version: 'other' };
  const assembly = new Assembly();
  const pieces = [...piecesOf({ ...policy, staged } as Policy)];
  for (const piece of pieces) assembly.add(structuredClone(piece));
  expect(pieces.length).toBeGreaterThan(10);
  expect(assembly.done()).toEqual({ ...policy, staged });
});
