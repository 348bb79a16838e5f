/** The files that a request or a packet is tried against, where no agent is asked. */
import { existsSync } from 'node:fs';
import type { Config } from '../config.ts';
import type { ServerName } from '../core/words.ts';
import { loadConfig, loadPolicy } from '../files/operator-files.ts';
import type { Policy, Server } from '../policy/policy.ts';

/** As they are named on the command line. */
export interface TrialFiles {
  readonly rules?: string;
  readonly config?: string;
}

const FOLDER = 'rules';

/** The rule files that are named, else those of agent.yaml, if that is named. @throws AgentError configInvalid, rulesInvalid */
export function readTrialFiles({ rules, config: file }: TrialFiles): { config: Config | undefined; policy: Policy } {
  const config = file === undefined ? undefined : loadConfig(file, () => {});
  const folder = rules ?? config?.rules.folder ?? FOLDER;
  if (!existsSync(folder))
    throw new Error(`there is no folder ${folder}: name that of the rule files by --rules, or agent.yaml by --config`);
  return { config, policy: loadPolicy(folder, config, () => {}) };
}

/** In the words in which a running agent says it of its own. */
export function serverIn({ servers }: Policy, name: string): Server {
  const server = servers.get(name as ServerName);
  if (!server) throw new Error(`serverUnknown: no server ${name} in the rule files`);
  return server;
}
