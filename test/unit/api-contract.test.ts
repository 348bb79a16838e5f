/** The contract as a document: that it says all that is answered, and nothing that is not. */
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { MTC_USER_BASE_PATH, mtcUserOperations } from '../../agent/api/mtc-user-routes.ts';
import { problemOf } from '../../agent/api/problem.ts';
import { reportOperations } from '../../agent/api/report-routes.ts';
import { BASE_PATH, operations } from '../../agent/api/routes.ts';
import { REFUSALS, type RefusalReason } from '../../agent/core/refusals.ts';

const folder = new URL('../../agent/api/', import.meta.url);
const text = readFileSync(new URL('openapi.yaml', folder), 'utf8');
const contract = parse(text);
/** Every contract by its file. */
const contracts = readdirSync(folder)
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => {
    const text = readFileSync(new URL(name, folder), 'utf8');
    return { name, text, contract: parse(text) };
  });
const reasons = Object.keys(REFUSALS) as RefusalReason[];
/** What is not answered at all: whoever is not known is told nothing. */
const isSilent = (reason: RefusalReason) => 'silent' in REFUSALS[reason];
const problem = (reason: RefusalReason) =>
  problemOf({ reason, step: REFUSALS[reason].step, instance: 'urn:uuid:x', why: 'w' });

describe('the contract', () => {
  it('says of a 404 that a grant is not there only where one is named', () => {
    const named = Object.entries<Record<string, { responses?: Record<string, { $ref?: string }> }>>(contract.paths)
      .filter(([, item]) => Object.values(item).some(({ responses }) => /Grant/.test(responses?.['404']?.$ref ?? '')))
      .map(([path]) => path);
    expect(named.length).toBeGreaterThan(0);
    expect(named.filter((path) => !path.includes('{grantId}'))).toEqual([]);
  });

  it('is served where it says', () => {
    const served = contracts.map(({ name, contract: { servers } }) => [name, servers[0].url]);
    expect(Object.fromEntries(served)).toMatchObject({
      'openapi.yaml': `{apiRoot}${BASE_PATH}`,
      'mtc-user.yaml': `{apiRoot}${MTC_USER_BASE_PATH}`,
    });
  });

  it.each(reasons.filter((reason) => !isSilent(reason)))(
    '%s is told by a contract: its code, and its status where it is answered',
    (reason) => {
      const { status, code } = REFUSALS[reason];
      const told = contracts.filter(({ text, contract: { info, paths } }) => {
        const operations = Object.values<object>(paths).flatMap((path) => Object.values(path));
        // 405, 408 and 431 are of no operation; they stand in the introduction.
        const isAnswered = [405, 408, 431].includes(status)
          ? new RegExp(`\\b${status}\\s`).test(info.description)
          : operations.some(({ responses }) => responses && String(status) in responses);
        return isAnswered && text.includes(`\`${code}\``);
      });
      expect(told.map(({ name }) => name)).not.toEqual([]);
    },
  );

  it.each(contracts)('answers nobody who is not known: $name', ({ contract: { paths } }) => {
    expect(reasons.filter(isSilent)).not.toEqual([]);
    const operations = Object.values<object>(paths).flatMap((path) => Object.values(path));
    expect(operations.filter(({ responses }) => responses && '401' in responses)).toEqual([]);
  });

  it.each(contracts)('lets no unknown member in: $name', ({ contract }) => {
    const open: string[] = [];
    const walk = (schema: unknown, at: string): void => {
      if (typeof schema !== 'object' || schema === null) return;
      const { type, additionalProperties } = schema as Record<string, unknown>;
      if (type === 'object' && additionalProperties !== false) open.push(at);
      for (const [key, value] of Object.entries(schema)) walk(value, `${at}/${key}`);
    };
    walk(contract.components.schemas, '');
    expect(open).toEqual(['/Problem']);
  });

  it.each(contracts)('has problems for all statuses from 400: $name', ({ contract }) => {
    for (const path of Object.values<
      Record<string, { operationId?: string; responses: Record<string, { $ref?: string }> }>
    >(contract.paths)) {
      for (const { operationId, responses } of Object.values(path)) {
        if (!operationId) continue;
        for (const [status, { $ref = '' }] of Object.entries(responses)) {
          if (Number(status) < 400) continue;
          const shared = contract.components.responses[$ref.split('/').at(-1) ?? ''];
          expect(Object.keys(shared.content), `${operationId} ${status}`).toEqual(['application/problem+json']);
        }
      }
    }
  });

  it.each(reasons)('%s: has Retry-After where that is ever told', (reason) => {
    const face: { status: number; step: string; retryAfterSeconds?: number } = REFUSALS[reason];
    const reckoned = ['rateExceeded', 'tooManyUnknownDevices', 'endpointsExhausted'];
    if (face.retryAfterSeconds === undefined && !reckoned.includes(reason)) return;
    const asksFor = (path: string) => face.step === 'admission' || /^.grants$|extend$/.test(path);
    for (const [path, operations] of Object.entries<object>(contract.paths).filter(([path]) => asksFor(path))) {
      const told = Object.values(operations).flatMap(({ responses }) => (responses ? [responses[face.status]] : []));
      for (const { $ref } of told)
        expect(contract.components.responses[$ref.split('/').at(-1)].headers, `${path} ${face.status}`).toHaveProperty(
          'Retry-After',
        );
    }
  });

  it.each([
    ['openapi.yaml', operations],
    ['mtc-user.yaml', (none: never) => ({ ...mtcUserOperations(none, none), ...reportOperations(none, none) })],
  ] as const)('has one handler for each operation: %s', (file, handlers) => {
    const { text } = contracts.find(({ name }) => name === file) as { text: string };
    const named = [...text.matchAll(/operationId: (\w+)/g)].map(([, name]) => name);
    const none = {} as never;
    expect(Object.keys((handlers as (...parts: never[]) => object)(none, none, none)).sort()).toEqual(named.sort());
  });
});

describe('a problem', () => {
  it('tells nothing of why or of rules', () => {
    const shown = problemOf({
      reason: 'deniedByRule',
      step: 'rule',
      instance: 'urn:uuid:x',
      why: 'secret',
      rule: 'no-telnet',
      members: { grantId: 'g' },
    });
    expect(shown).toEqual({
      type: 'urn:mtgate:problem:permission-denied',
      title: REFUSALS.deniedByRule.title,
      status: 403,
      instance: 'urn:uuid:x',
      code: 'PERMISSION_DENIED',
      cause: 'OPERATION_PROHIBITED',
      grantId: 'g',
    });
  });

  it.each([
    ['deviceUnknown', 'notAuthorisedByMtcUser'],
    ['deniedByRule', 'noRuleAllows'],
    ['deniedByRule', 'deniedByFilter'],
  ] as const)('%s and %s read the same', (one, other) => {
    expect(JSON.stringify(problem(one))).toBe(JSON.stringify(problem(other)));
  });
});
