/**
 * The thread that compiles rule files and runs their policy tests, so that the
 * agent's loop answers meanwhile. One policy, and it ends. The policy goes in
 * pieces through a port of its own; the last word says what became of it.
 */
import { createHash } from 'node:crypto';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import type { Issue } from '../core/document.ts';
import { compilePolicy, type Surroundings } from '../policy/compile.ts';
import { runPolicyTests } from '../policy/policy-tests.ts';
import type { RuleFile } from '../policy/rules.ts';
import { piecesOf } from './policy-pieces.ts';

export interface Task {
  readonly files: readonly RuleFile[];
  readonly surroundings: Omit<Surroundings, 'digest'>;
  readonly port: MessagePort;
}

export type LastWord = { readonly issues: readonly Issue[] } | { readonly warnings: readonly Issue[] };

const { files, surroundings, port } = workerData as Task;
const digest = (text: string) => createHash('sha256').update(text).digest('hex');
const compiled = compilePolicy(files, { ...surroundings, digest });
const issues = 'issues' in compiled ? compiled.issues : runPolicyTests(compiled.policy, surroundings.site);
if ('policy' in compiled && issues.length === 0) {
  for (const piece of piecesOf(compiled.policy)) port.postMessage(piece);
  parentPort?.postMessage({ warnings: compiled.warnings } satisfies LastWord);
} else {
  parentPort?.postMessage({ issues } satisfies LastWord);
}
