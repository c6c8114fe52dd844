/** The library: `train`, `generate`, `doctor`, and what belongs to them. Options are described in docs/options.md. */
export type { GenerateOptions, LoraReference, TrainOptions } from './config.js'
export { type CurvePoint, lossCurvePng } from './curve.js'
export { type DoctorReport, doctor } from './doctor.js'
export {
  type CacheEvent,
  type CheckpointEvent,
  type DoneEvent,
  LorafuseError,
  type StartEvent,
  type StepEvent,
  type TrainEvent,
  type WarningEvent,
} from './events.js'
export { type GenerateContext, type GeneratedImage, type GenerateEvent, generate } from './generate.js'
export { type TrainEvents, trainEvents } from './iterate.js'
export type { MemoryPlan } from './native.js'
export { type DrawContext, type DrawRequest, Pipeline, type PipelineOptions } from './pipeline.js'
export { encodePng, type Picture, readTexts } from './png.js'
export { type TrainContext, type TrainResult, train } from './run.js'
export { readHeader, readTensors, type SafetensorsHeader, type Tensor, type TensorEntry } from './safetensors.js'
