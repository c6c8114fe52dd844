/** Decides when a training is saved, and collects what a LoRA file and its state hold. */
import type { CheckpointEvent, WarningEvent } from '../events.js'
import type { Session } from '../native.js'
import type { LossScale } from './loss-scale.js'
import { type TrainingInfo, trainingMetadata } from './metadata.js'
import type { CheckpointName, OutputFolder, Saved } from './output.js'
import { type Identity, stateBuffers } from './state.js'

export interface CheckpointsOptions {
  session: Pick<Session, 'buffers' | 'read'>
  output: OutputFolder
  info: TrainingInfo
  identity: Identity
  lossScale: LossScale
  /** Finds a file of the trained networks that has been written to since the run began. */
  overwritten: () => Promise<string | undefined>
  /** The last update that is done, in the state that the run resumed from; 0 for a new run. */
  from: number
}

export class Checkpoints {
  /** The last update that has been saved. */
  private savedStep: number
  private warned = false
  /** Where the buffers are read to: to find no memory when a training is to be saved would lose it. */
  private readonly room: [name: string, data: Float32Array][]

  constructor(
    private readonly options: CheckpointsOptions,
    private readonly onEvent: (event: CheckpointEvent | WarningEvent) => void,
  ) {
    this.savedStep = options.from
    this.room = stateBuffers(options.session).map(({ name, count }) => [name, new Float32Array(count)])
  }

  /** Writes the LoRA and its state as they are after update `step`. Throws `DISK_FULL`, `OUTPUT_NOT_WRITABLE`. */
  async write(name: CheckpointName, step: number): Promise<Saved> {
    const { session, output, info, identity, lossScale } = this.options
    const buffers = Object.fromEntries(this.room.map(([name, data]) => [name, session.read(name, data)]))
    const state = { step, run: info.run, lossScale: lossScale.state, identity, buffers }
    const saved = await output.save(name, state, trainingMetadata(info, name, step, Date.now() / 1000))
    this.savedStep = step
    await this.warnIfOverwritten(saved.path)
    return saved
  }

  /** Kernels read the weights in the mapped files. */
  private async warnIfOverwritten(saved: string): Promise<void> {
    const path = this.warned ? undefined : await this.options.overwritten()
    if (path === undefined) return
    this.warned = true
    const message = `Expected ${path} to stay as it is during the training but it was written to; ${saved} is of both, so train again`
    this.onEvent({ type: 'warning', code: 'WEIGHTS_CHANGED', message, path })
  }

  private async save(name: CheckpointName, step: number): Promise<Saved> {
    const saved = await this.write(name, step)
    this.onEvent({ type: 'checkpoint', step, ...saved })
    return saved
  }

  /** As kohya: every `saveEvery` steps, the last one included; every `saveEveryEpochs` epochs, except the last: that is the final file. */
  async saveWhereDue(step: number): Promise<void> {
    const { steps, batches, options } = this.options.info
    const { updatesPerEpoch } = batches
    const { saveEvery, saveEveryEpochs } = options
    if (saveEvery > 0 && step % saveEvery === 0) await this.save({ step }, step)
    const epochEnds = step % updatesPerEpoch === 0 && step < steps
    const epoch = step / updatesPerEpoch
    if (saveEveryEpochs !== undefined && epochEnds && epoch % saveEveryEpochs === 0) await this.save({ epoch }, step)
  }

  /** Before a training ends early: saves `step`, its last update, unless that has been saved already. */
  async saveUnsaved(step: number): Promise<Saved | undefined> {
    return step > this.savedStep ? this.save({ step }, step) : undefined
  }
}
