#!/usr/bin/env node
/**
 * The `mtgate` command: one table of commands, a file for each subject in
 * cli/. `check` and `explain` read the operator's files, `doctor` looks at the
 * host; the others are clients of the agent's management socket.
 *
 * Exit codes stand in cli/help.ts, and in --help.
 */
import { Command, CommanderError } from 'commander';
import { registerCompletion } from './cli/completion.ts';
import { registerDenials } from './cli/denials.ts';
import { registerDevice } from './cli/device.ts';
import { registerDoctor } from './cli/doctor.ts';
import { registerEditions } from './cli/editions.ts';
import { registerGrants } from './cli/grants.ts';
import { EXIT, EXIT_CODES } from './cli/help.ts';
import { registerNat } from './cli/nat.ts';
import { registerOffline } from './cli/offline.ts';
import { printFault } from './cli/print.ts';
import { registerRadius } from './cli/radius.ts';
import { registerReports } from './cli/reports.ts';
import { registerStatus } from './cli/status.ts';
import { registerTriggers } from './cli/triggers.ts';
import { registerUsers } from './cli/users.ts';
import { AgentError, type FaultCode } from './core/errors.ts';

/** Faults that have an exit code of their own. */
const EXIT_OF: Partial<Record<FaultCode, number>> = {
  notRunning: EXIT.notRunning,
  socketDenied: EXIT.socketDenied,
};

const program = new Command('mtgate')
  .description('The firewall agent of a PGW/UPF host: what is granted passes, all else is closed.')
  .addHelpText('after', EXIT_CODES)
  .exitOverride()
  .configureHelp({ showGlobalOptions: true });

registerStatus(program);
registerGrants(program);
registerTriggers(program);
registerDevice(program);
registerRadius(program);
registerUsers(program);
registerDenials(program);
registerReports(program);
registerNat(program);
registerEditions(program);
registerDoctor(program);
registerOffline(program);
registerCompletion(program);

// Whoever reads us may stop early (`mtgate grants | head`); a full disk takes nothing, and then the answer is not there.
process.stdout.on('error', (fault: NodeJS.ErrnoException) => {
  if (fault.code === 'EPIPE') process.exit();
  printFault(`standard output cannot be written: ${fault.message}`);
  process.exit(EXIT.refused);
});
process.stderr.on('error', () => {}); // there is nowhere left to say it; the status says that something was

program.parseAsync().catch((fault) => {
  if (fault instanceof CommanderError) {
    // Commander has printed what is its own; our own usage errors it has not.
    if (fault.code.startsWith('mtgate.')) printFault(`mtgate: ${fault.message}`);
    process.exitCode = fault.exitCode === 0 ? EXIT.done : EXIT.wrongWords;
    return;
  }
  const advice = fault instanceof AgentError ? `\n${fault.advice}` : '';
  printFault(`${fault.message}${advice}`);
  process.exitCode = (fault instanceof AgentError && EXIT_OF[fault.code]) || EXIT.refused;
});
