/**
 * The `mtgate` command as a client of the agent's management socket: the
 * options that such a command has, and one request with its answer.
 */
import { type IncomingMessage, request } from 'node:http';
import { createInterface } from 'node:readline';
import { Option } from 'commander';
import type { ErrorBody } from '../api/management.ts';
import { AgentError } from '../core/errors.ts';

export interface Ask {
  readonly socket: string;
  readonly json?: boolean;
}

/** An option of every command that speaks to the agent. */
export const socket = () =>
  new Option('--socket <path>', "the agent's management socket")
    .default('/run/mtgate/mtgate.sock')
    .env('MTGATE_SOCKET');
export const json = () => new Option('--json', 'print JSON');

/** One request to the agent. @throws AgentError notRunning, or Declined with what it answered */
export function call<Answer>(
  { socket: socketPath }: Ask,
  method: string,
  path: string,
  body?: object,
): Promise<Answer> {
  const text = body === undefined ? '' : JSON.stringify(body);
  const headers = text ? { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) } : {};
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, method, path, headers }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => {
        const said = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : undefined;
        if ((answer.statusCode ?? 500) < 300) resolve(said as Answer);
        else reject(new Declined(said as ErrorBody));
      });
    });
    asked.on('error', (cause) => reject(new AgentError('notRunning', `no agent answers on ${socketPath}`, { cause })));
    asked.end(text);
  });
}

/** The agent's own words of why it did not. */
class Declined extends Error {
  constructor({ error }: ErrorBody) {
    super([`${error.code}: ${error.message}`, error.cause, error.advice].filter(Boolean).join('\n'));
  }
}

/** The lines of an answer that does not end, as they come. @throws AgentError notRunning, or Declined */
export async function* follow({ socket: socketPath }: Ask, path: string): AsyncGenerator<string> {
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    const asked = request({ socketPath, path, agent: false }, resolve);
    asked.on('error', (cause) => reject(new AgentError('notRunning', `no agent answers on ${socketPath}`, { cause })));
    asked.end();
  });
  const lines = createInterface({ input: answer });
  if (answer.statusCode === 200) {
    let cause: unknown;
    try {
      yield* lines;
    } catch (fault) {
      cause = fault;
    }
    throw new AgentError('notRunning', `the agent on ${socketPath} ended the stream`, { cause });
  }
  let text = '';
  for await (const line of lines) text += line;
  throw new Declined(JSON.parse(text) as ErrorBody);
}
