/**
 * Compiles rule files in a thread of their own (policy-worker.ts): of a policy
 * of ten thousand rules the loop of the agent feels some milliseconds at a
 * time. The thread has so much memory and so much time and no more, so that no
 * rule file can take the agent down; what happens to it changes nothing here.
 */
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';
import type { Issue } from '../core/document.ts';
import { AgentError } from '../core/errors.ts';
import { breathe } from '../core/slices.ts';
import type { Policy } from '../policy/policy.ts';
import { indexing } from '../policy/policy-index.ts';
import type { RuleFile } from '../policy/rules.ts';
import { Assembly, type Piece } from './policy-pieces.ts';
import type { LastWord, Task } from './policy-worker.ts';

/** Twenty times what 10,000 rules take. */
const TIME_MOST_MS = 60_000;
/** Some three times what 10,000 rules take; with a wider nursery it took longer, since more of what lives on is copied (native-notes/performance.md). */
const MEMORY_MOST = { maxOldGenerationSizeMb: 1_024, maxYoungGenerationSizeMb: 24 };

/** Tested too: a policy whose tests fail is none. */
export type Compiled =
  | { readonly policy: Policy; readonly warnings: readonly Issue[] }
  | { readonly issues: readonly Issue[] };

/** `worker` is the compiled policy-worker. @throws AgentError policyNotCompiled */
export async function compileApart(
  worker: URL,
  task: Omit<Task, 'port'>,
  bounds: { readonly timeMostMs?: number; readonly memoryMost?: typeof MEMORY_MOST } = {},
): Promise<Compiled> {
  const { port1, port2 } = new MessageChannel();
  try {
    const workerData: Task = { ...task, port: port2 };
    const thread = new Worker(worker, {
      workerData,
      transferList: [port2],
      resourceLimits: bounds.memoryMost ?? MEMORY_MOST,
    });
    const lastWord = await lastWordOf(thread, bounds.timeMostMs ?? TIME_MOST_MS);
    if ('issues' in lastWord) return lastWord;
    const assembly = new Assembly();
    for (let next = receiveMessageOnPort(port1); next; next = receiveMessageOnPort(port1)) {
      assembly.add(next.message as Piece);
      await breathe();
    }
    const policy = assembly.done();
    for (const one of [policy, policy.staged]) {
      if (one) for (const _ of indexing(one)) await breathe();
    }
    return { policy, warnings: lastWord.warnings };
  } finally {
    port1.close();
  }
}

/** Compiles the same texts once, where they come again: what was shown is then applied. */
export function keepingLast<Result>(
  compile: (files: readonly RuleFile[], where: string) => Promise<Result>,
): (files: readonly RuleFile[], where: string) => Promise<Result> {
  let last: { readonly files: readonly RuleFile[]; readonly where: string; readonly result: Result } | undefined;
  const isLast = (files: readonly RuleFile[], where: string) =>
    last?.where === where &&
    last.files.length === files.length &&
    last.files.every(({ file, text }, i) => file === files[i]?.file && text === files[i]?.text);
  return async (files, where) => {
    if (last && isLast(files, where)) return last.result;
    const result = await compile(files, where);
    last = { files, where, result };
    return result;
  };
}

function lastWordOf(thread: Worker, timeMostMs: number): Promise<LastWord> {
  return new Promise((resolve, reject) => {
    const failed = (why: string, cause?: unknown) =>
      reject(new AgentError('policyNotCompiled', `the rule files were not compiled: ${why}`, { cause }));
    const timer = setTimeout(() => {
      failed(`it took more than ${timeMostMs / 1_000} s`);
      void thread.terminate();
    }, timeMostMs);
    thread
      .once('message', resolve)
      .once('error', (cause: NodeJS.ErrnoException) => {
        const isFull = cause.code === 'ERR_WORKER_OUT_OF_MEMORY';
        failed(isFull ? 'it took more memory than it may' : cause.message, cause);
      })
      .once('exit', (code) => {
        clearTimeout(timer);
        failed(`its thread ended with ${code}`); // said nothing, or nothing is changed by this
      });
  });
}
