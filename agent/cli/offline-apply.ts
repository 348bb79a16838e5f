/**
 * `apply --offline`: the way out where the agent does not start, since the
 * edition in force does not fit agent.yaml any more, or the editions are
 * damaged. The rule folder becomes the edition of the next start.
 *
 * Invariant: it holds the lock of the store while it looks and writes, so that
 * no agent runs, nor starts, beside it.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { bounded, type Edition, newEdition } from '../editions/edition.ts';
import { type EditionStore, openEditions } from '../editions/edition-store.ts';
import { compileRules, loadConfig } from '../files/operator-files.ts';
import { readRuleFolder } from '../files/rule-folder.ts';
import { lockFolder, systemClock, userName } from '../host.ts';
import { changesBetween, inWords } from '../policy/changes.ts';
import type { Policy } from '../policy/policy.ts';
import { isUnfit } from '../sqlite/database.ts';
import { putAside } from '../sqlite/usable-file.ts';
import { mayGoOn } from './agreement.ts';
import type { Ask } from './client.ts';
import { print, printJson, printLines } from './print.ts';

interface OfflineApply extends Pick<Ask, 'json'> {
  readonly config: string;
  readonly comment?: string;
  readonly yes?: true;
}

/** @throws AgentError alreadyRunning where an agent runs; configInvalid, rulesInvalid */
export async function applyOffline(ask: OfflineApply): Promise<void> {
  const say = ask.json ? () => {} : print;
  const config = loadConfig(ask.config, (warning) => say(`warning: ${warning}`));
  const { folder } = config.rules;
  const { directory } = config.store;
  mkdirSync(directory, { recursive: true, mode: 0o750 });
  lockFolder(directory);
  const { files, digest } = readRuleFolder(config.rules);
  const policy = compileRules(files, folder, config, (warning) => say(`warning: ${warning}`));

  const file = join(directory, 'editions.db');
  const store = openUnlessUnfit(file);
  const last = typeof store === 'object' ? store.last() : undefined;
  const changed =
    typeof store === 'string' ? [`${store}: it will be put aside`] : changesSince(last, () => compiled(last), policy);
  say(`the rule files of ${folder} (policy ${policy.version}) against ${last ? `edition ${last.number}` : 'nothing'}:`);
  if (!ask.json) printLines(changed.map((line) => `  ${line}`));
  if (!(await mayGoOn(ask))) return;
  if (typeof store === 'string') putAside(file, store);
  const editions = typeof store === 'string' ? openEditions(file) : store;
  const uid = process.getuid?.() ?? 0;
  const made = { how: 'offline', by: { uid, name: await userName(uid) }, changed, comment: ask.comment } as const;
  const edition = newEdition((last?.number ?? 0) + 1, { files, digest }, policy, made, systemClock);
  editions.add(edition);
  editions.close();
  if (ask.json) printJson({ applied: true, edition: edition.number, policy: policy.version });
  else print(`edition ${edition.number} is in force from the next start of the agent`);

  function compiled(before: Edition | undefined): Policy | undefined {
    return before && compileRules(before.files, `edition-${before.number}`, config, () => {});
  }
}

/** The editions, or what is wrong with them. @throws AgentError editionsInvalid of what may pass by itself, such as a full disk */
function openUnlessUnfit(file: string): EditionStore | string {
  try {
    return openEditions(file);
  } catch (fault) {
    if (fault instanceof AgentError && fault.code === 'editionsInvalid' && isUnfit(fault.cause)) return fault.message;
    throw fault;
  }
}

/** In words; of an edition that does not compile any more only that can be said. */
function changesSince(last: Edition | undefined, compile: () => Policy | undefined, policy: Policy): string[] {
  if (!last) return ['the first edition'];
  try {
    const before = compile();
    const changes = before ? changesBetween(before, policy) : [];
    return changes.length > 0 ? bounded(changes.map(inWords)) : ['nothing in meaning'];
  } catch (fault) {
    return bounded([`edition ${last.number} does not fit any more`, ...(fault as Error).message.split('\n')]);
  }
}
