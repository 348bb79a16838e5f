/** The words on the daemon's command line: two options, and --help. */
import { parseArgs } from 'node:util';
import { LOG_LEVELS } from '../host.ts';

export const USAGE = `Usage: node dist/main.js [--config FILE] [--log LEVEL]
The firewall agent of a gateway, as systemd starts it (mtgate.service). The command for operators is mtgate.

  --config FILE   agent.yaml (default: /etc/mtgate/agent.yaml)
  --log LEVEL     ${LOG_LEVELS.join(', ')} (default: info)
  --help          this text

Exit codes: 0 stopped, or --help; 1 a fault that a restart may cure; 78 one that it does not: wrong words, invalid files.
`;

export interface Words {
  readonly config: string;
  readonly log: string;
}

/** What was asked for; or what is wrong with it. */
export function readWords(args: readonly string[]): Words | 'help' | { readonly wrong: string } {
  try {
    const { config, log, help } = parseArgs({
      args: [...args],
      options: {
        config: { type: 'string', default: '/etc/mtgate/agent.yaml' },
        log: { type: 'string', default: 'info' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
    if (help) return 'help';
    if (!LOG_LEVELS.includes(log)) return { wrong: `--log: expected one of ${LOG_LEVELS.join(', ')}, found "${log}"` };
    return { config, log };
  } catch (fault) {
    if (!String((fault as NodeJS.ErrnoException).code).startsWith('ERR_PARSE_ARGS')) throw fault;
    return { wrong: (fault as Error).message.split('\n')[0] ?? '' };
  }
}
