/** Policies from rule files given as text, for tests. */
import { createHash } from 'node:crypto';
import { type Compilation, compilePolicy, type Surroundings } from '../agent/policy/compile.ts';
import type { Policy } from '../agent/policy/policy.ts';
import { issuesOf } from './issues.ts';
import { NORMALISE } from './suites/fixture.ts';

export const digest = (text: string) => createHash('sha256').update(text).digest('hex');

/** Files are called a.yaml, b.yaml, … in the order given. */
export function compiled(texts: string | readonly string[], surroundings: Partial<Surroundings> = {}): Compilation {
  const files = [texts].flat().map((text, i) => ({ file: `${String.fromCharCode(97 + i)}.yaml`, text }));
  return compilePolicy(files, { digest, ...surroundings });
}

export function policyOf(...texts: readonly string[]): Policy {
  return policyWithin({}, ...texts);
}

export function policyWithin(surroundings: Partial<Surroundings>, ...texts: readonly string[]): Policy {
  const compilation = compiled(texts, surroundings);
  if ('issues' in compilation) throw new Error(issuesOf(compilation).join('\n'));
  return compilation.policy;
}

/** Of a base: no filter, and headers made alike as they are by default. */
export const PLAIN_BASE = { filters: [], filterCopiesPerSecond: 0, groups: new Map(), normalise: NORMALISE } as const;
