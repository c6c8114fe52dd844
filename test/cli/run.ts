import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export const cli = fileURLToPath(new URL('../../lib/cli/cli.js', import.meta.url))
export const root = fileURLToPath(new URL('../../..', import.meta.url))

export interface Result {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

export interface RunOptions {
  /** The program; the package's own if it is left out. */
  program?: string
  cwd?: string
  /** Called with what stdout and stderr have shown so far. */
  onOutput?: (text: string, kill: (signal: NodeJS.Signals) => void) => void
}

/** Runs the command line in a process of its own, without terminal. */
export function lorafuse(words: string[], { program = cli, cwd, onOutput }: RunOptions = {}): Promise<Result> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...words], { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
    const output = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (piece: string) => {
        output[name] += piece
        onOutput?.(output.stdout + output.stderr, (signal) => child.kill(signal))
      })
    }
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, ...output }))
  })
}

/** Runs several command lines in one process, in turn; `module`: what exports the commands, if they are not the package's own. */
export async function lorafuseTogether(lists: string[][], module?: string): Promise<Result[]> {
  const program = fileURLToPath(new URL('together.js', import.meta.url))
  const { stdout, stderr } = await lorafuse([JSON.stringify(lists), ...(module ? [module] : [])], { program })
  assert.equal(stderr, '')
  return JSON.parse(stdout) as Result[]
}
