/** When a training is saved, and with what. */
import type { CheckpointEvent } from '../events.js'
import type { Model } from '../models/model.js'
import type { Session } from '../native.js'
import type { LossScale } from './loss-scale.js'
import { type TrainingInfo, trainingMetadata } from './metadata.js'
import type { CheckpointName, OutputFolder, Saved } from './output.js'
import { type Identity, stateBuffers } from './state.js'

export interface CheckpointsOptions {
  session: Pick<Session, 'buffers' | 'read'>
  output: OutputFolder
  info: TrainingInfo
  /** Its hashes are awaited by the first save. */
  model: Pick<Model, 'hash' | 'legacyHash'>
  identity: Omit<Identity, 'model'>
  lossScale: LossScale
  /** The update that the state resumed from holds; 0: none. */
  from: number
  onSaved: (event: CheckpointEvent) => void
}

export class Checkpoints {
  /** The last update that a state holds. */
  private savedStep: number

  constructor(private readonly options: CheckpointsOptions) {
    this.savedStep = options.from
  }

  /** Writes the LoRA and its state as they are after update `step`. Throws `DISK_FULL`, `OUTPUT_NOT_WRITABLE`. */
  async write(name: CheckpointName, step: number): Promise<Saved> {
    const { session, output, info, model, identity, lossScale } = this.options
    const hashes = { hash: await model.hash(), legacyHash: await model.legacyHash() }
    const buffers = Object.fromEntries(stateBuffers(session).map(({ name }) => [name, session.read(name)]))
    const state = { step, lossScale: lossScale.state, run: info.run, buffers }
    const metadata = trainingMetadata(info, hashes, step, Date.now() / 1000)
    const saved = await output.save(name, state, { ...identity, model: hashes.hash }, metadata)
    this.savedStep = step
    return saved
  }

  private async save(name: CheckpointName, step: number): Promise<Saved> {
    const saved = await this.write(name, step)
    this.options.onSaved({ type: 'checkpoint', step, ...saved })
    return saved
  }

  /** As kohya: every so many steps, the last included; every so many epochs, the last of which is left to the finished file. */
  async saveWhereDue(step: number): Promise<void> {
    const { steps, updatesPerEpoch, options } = this.options.info
    const { saveEvery, saveEveryEpochs } = options
    if (saveEvery > 0 && step % saveEvery === 0) await this.save({ step }, step)
    const epochEnds = step % updatesPerEpoch === 0 && step < steps
    const epoch = step / updatesPerEpoch
    if (saveEveryEpochs !== undefined && epochEnds && epoch % saveEveryEpochs === 0) await this.save({ epoch }, step)
  }

  /** Saves the last update that is done unless a state holds it, before the training ends early. */
  async saveUnsaved(step: number): Promise<Saved | undefined> {
    return step > this.savedStep ? this.save({ step }, step) : undefined
  }
}
