/**
 * What the daemon does again and again, and how a fault of it is told: it is
 * logged by its code and advice, and ends nothing.
 */
import { AgentError } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
import type { Log } from '../core/ports.ts';

/** How often what is due is done, and what must stand is looked at. */
export const TICK_MS = 1_000;

/** A part that was started, and how it is stopped. */
export type Stop = () => void | Promise<void>;

/** Acts in this rhythm, never twice at once. To stop waits for what is under way. */
export function every(periodMs: number, log: Log, act: () => unknown): Stop {
  let timer: NodeJS.Timeout;
  let running: Promise<unknown> = Promise.resolve();
  let stopped = false;
  const arm = () => {
    timer = setTimeout(() => {
      running = Promise.resolve()
        .then(act)
        .catch((fault) => logFault(log, fault, 'tickFailed'))
        .then(() => (stopped ? undefined : arm()));
    }, periodMs);
  };
  arm();
  return async () => {
    stopped = true;
    clearTimeout(timer);
    await running;
  };
}

export function logFault(log: Log, fault: unknown, event: EventName): void {
  const { code, message, advice, cause } = asAgentError(fault);
  log.error({ code, message, advice, cause: String(cause ?? '') }, event);
}

/** A fault that has no code of its own is a defect of ours. */
export function asAgentError(fault: unknown): AgentError {
  return fault instanceof AgentError ? fault : new AgentError('internal', String(fault), { cause: fault });
}
