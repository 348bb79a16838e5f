/** `doctor`: is this host fit for mtgate, and what to do where it is not. */
import type { Command } from 'commander';
import { json, socket } from './client.ts';
import type { Patient } from './examination.ts';
import { explainUse } from './help.ts';

export function registerDoctor(program: Command): void {
  explainUse(
    program
      .command('doctor')
      .description('look at the host: kernel, tools, sysctls, interfaces, clock, disk, rights; and what to do')
      .option('--config <file>', 'agent.yaml', '/etc/mtgate/agent.yaml')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Patient) => (await import('./examination.ts')).examineHost(ask)),
    {
      more: 'Needs no agent and changes nothing. Whoever is not root is told less.',
      examples: ['mtgate doctor', 'mtgate doctor --config ./agent.yaml --json'],
    },
  );
}
