// -----// IR Dump Before LayoutSlicesPass: iree-stream-layout-slices //----- //
util.func public @main(%arg0: !hal.buffer_view, %arg1: !hal.buffer_view, %arg2: !hal.buffer_view, %arg3: !hal.buffer_view) -> !hal.buffer_view attributes {iree.abi.stub, iree.reflection = {iree.abi.declaration = "sync func @main(%input0: tensor<64x32xf32>, %input1: tensor<32x128xf32>, %input2: tensor<128x128xf32>, %input3: tensor<128x128xf32>) -> (%output0: tensor<64x128xf32>)"}} {
  %c0 = arith.constant 0 : index
  %c32768 = arith.constant 32768 : index
  %c65536 = arith.constant 65536 : index
  %c16384 = arith.constant 16384 : index
  %c8192 = arith.constant 8192 : index
  %c128 = arith.constant 128 : index
  %c32 = arith.constant 32 : index
  %c64 = arith.constant 64 : index
  %element_type_f32 = hal.element_type<f32> : i32
  %dense_row_major = hal.encoding_type<dense_row_major> : i32
  hal.buffer_view.assert<%arg0 : !hal.buffer_view> message("input0") shape([%c64, %c32]) type(%element_type_f32) encoding(%dense_row_major)
  %0 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg0 : !hal.buffer_view -> tensor<64x32xf32> in !stream.resource<external>{%c8192}
  %1 = stream.async.cast on(#hal.device.affinity<@__device_0>) %0 : !stream.resource<external>{%c8192} -> !stream.resource<*>{%c8192}
  hal.buffer_view.assert<%arg1 : !hal.buffer_view> message("input1") shape([%c32, %c128]) type(%element_type_f32) encoding(%dense_row_major)
  %2 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg1 : !hal.buffer_view -> tensor<32x128xf32> in !stream.resource<external>{%c16384}
  %3 = stream.async.cast on(#hal.device.affinity<@__device_0>) %2 : !stream.resource<external>{%c16384} -> !stream.resource<*>{%c16384}
  hal.buffer_view.assert<%arg2 : !hal.buffer_view> message("input2") shape([%c128, %c128]) type(%element_type_f32) encoding(%dense_row_major)
  %4 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg2 : !hal.buffer_view -> tensor<128x128xf32> in !stream.resource<external>{%c65536}
  %5 = stream.async.cast on(#hal.device.affinity<@__device_0>) %4 : !stream.resource<external>{%c65536} -> !stream.resource<*>{%c65536}
  hal.buffer_view.assert<%arg3 : !hal.buffer_view> message("input3") shape([%c128, %c128]) type(%element_type_f32) encoding(%dense_row_major)
  %6 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg3 : !hal.buffer_view -> tensor<128x128xf32> in !stream.resource<external>{%c65536}
  %7 = stream.async.cast on(#hal.device.affinity<@__device_0>) %6 : !stream.resource<external>{%c65536} -> !stream.resource<*>{%c65536}
  %8 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_0::@main_dispatch_0_matmul_64x128x32_f32(%1[%c0 to %c8192 for %c8192], %3[%c0 to %c16384 for %c16384]) : (!stream.resource<*>{%c8192}, !stream.resource<*>{%c16384}) -> !stream.resource<*>{%c32768}
  %9 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_1::@main_dispatch_1_matmul_64x128x128_f32(%8[%c0 to %c32768 for %c32768], %5[%c0 to %c65536 for %c65536]) : (!stream.resource<*>{%c32768}, !stream.resource<*>{%c65536}) -> !stream.resource<*>{%c32768}
  %10 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_2::@main_dispatch_2_matmul_64x128x128_f32(%9[%c0 to %c32768 for %c32768], %7[%c0 to %c65536 for %c65536]) : (!stream.resource<*>{%c32768}, !stream.resource<*>{%c65536}) -> !stream.resource<*>{%c32768}
  %11 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_3::@main_dispatch_3_softmax_64x128xf32_dispatch_tensor_store(%10[%c0 to %c32768 for %c32768]) : (!stream.resource<*>{%c32768}) -> !stream.resource<*>{%c32768}
  %12 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_4::@main_dispatch_4_matmul_64x128x128_f32(%11[%c0 to %c32768 for %c32768], %7[%c0 to %c65536 for %c65536]) : (!stream.resource<*>{%c32768}, !stream.resource<*>{%c65536}) -> !stream.resource<*>{%c32768}
  %13 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_5::@main_dispatch_5_matmul_64x128x128_f32(%12[%c0 to %c32768 for %c32768], %5[%c0 to %c65536 for %c65536], %11[%c0 to %c32768 for %c32768]) : (!stream.resource<*>{%c32768}, !stream.resource<*>{%c65536}, !stream.resource<*>{%c32768}) -> !stream.resource<*>{%c32768}
  %14 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_5::@main_dispatch_5_matmul_64x128x128_f32(%13[%c0 to %c32768 for %c32768], %5[%c0 to %c65536 for %c65536], %9[%c0 to %c32768 for %c32768]) : (!stream.resource<*>{%c32768}, !stream.resource<*>{%c65536}, !stream.resource<*>{%c32768}) -> !stream.resource<*>{%c32768}
  %15 = stream.async.cast on(#hal.device.affinity<@__device_0>) %14 : !stream.resource<*>{%c32768} -> !stream.resource<external>{%c32768}
  %16 = stream.tensor.export on(#hal.device.affinity<@__device_0>) %15 : tensor<64x128xf32> in !stream.resource<external>{%c32768} -> !hal.buffer_view
  util.return %16 : !hal.buffer_view
}

// -----// IR Dump Before LayoutSlicesPass: iree-stream-layout-slices //----- //
util.func public @main(%arg0: !hal.buffer_view, %arg1: !hal.buffer_view, %arg2: !hal.buffer_view, %arg3: !hal.buffer_view) -> !hal.buffer_view attributes {iree.abi.stub, iree.reflection = {iree.abi.declaration = "sync func @main(%input0: tensor<64x32xf32>, %input1: tensor<32x128xf32>, %input2: tensor<128x128xf32>, %input3: tensor<128x128xf32>) -> (%output0: tensor<64x128xf32>)"}} {
  %c0 = arith.constant 0 : index
  %c32768 = arith.constant 32768 : index
  %c65536 = arith.constant 65536 : index
  %c16384 = arith.constant 16384 : index
  %c8192 = arith.constant 8192 : index
  %c128 = arith.constant 128 : index
  %c32 = arith.constant 32 : index
  %c64 = arith.constant 64 : index
  %element_type_f32 = hal.element_type<f32> : i32
  %dense_row_major = hal.encoding_type<dense_row_major> : i32
  hal.buffer_view.assert<%arg0 : !hal.buffer_view> message("input0") shape([%c64, %c32]) type(%element_type_f32) encoding(%dense_row_major)
  %0 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg0 : !hal.buffer_view -> tensor<64x32xf32> in !stream.resource<external>{%c8192}
  hal.buffer_view.assert<%arg1 : !hal.buffer_view> message("input1") shape([%c32, %c128]) type(%element_type_f32) encoding(%dense_row_major)
  %1 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg1 : !hal.buffer_view -> tensor<32x128xf32> in !stream.resource<external>{%c16384}
  hal.buffer_view.assert<%arg2 : !hal.buffer_view> message("input2") shape([%c128, %c128]) type(%element_type_f32) encoding(%dense_row_major)
  %2 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg2 : !hal.buffer_view -> tensor<128x128xf32> in !stream.resource<external>{%c65536}
  hal.buffer_view.assert<%arg3 : !hal.buffer_view> message("input3") shape([%c128, %c128]) type(%element_type_f32) encoding(%dense_row_major)
  %3 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg3 : !hal.buffer_view -> tensor<128x128xf32> in !stream.resource<external>{%c65536}
  %c0_0 = arith.constant 0 : index
  %result, %result_timepoint = stream.resource.alloca uninitialized on(#hal.device.affinity<@__device_0>) : !stream.resource<external>{%c32768} => !stream.timepoint
  %4:7 = stream.resource.pack on(#hal.device.affinity<@__device_0>) slices({
    [0, 1] = %c32768,
    [1, 6] = %c32768,
    [2, 3] = %c32768,
    [3, 5] = %c32768,
    [4, 5] = %c32768,
    [5, 6] = %c32768
  }) : index
  %result_1, %result_timepoint_2 = stream.resource.alloca uninitialized on(#hal.device.affinity<@__device_0>) : !stream.resource<transient>{%4#0} => !stream.timepoint
  %5 = stream.timepoint.join max(%result_timepoint, %result_timepoint_2) => !stream.timepoint
  %6 = stream.cmd.execute on(#hal.device.affinity<@__device_0>) await(%5) => with(%0 as %arg4: !stream.resource<external>{%c8192}, %1 as %arg5: !stream.resource<external>{%c16384}, %2 as %arg6: !stream.resource<external>{%c65536}, %3 as %arg7: !stream.resource<external>{%c65536}, %result as %arg8: !stream.resource<external>{%c32768}, %result_1 as %arg9: !stream.resource<transient>{%4#0}) {
    stream.cmd.dispatch @main_dispatch_0::@main_dispatch_0_matmul_64x128x32_f32 {
      ro %arg4[%c0 for %c8192] : !stream.resource<external>{%c8192},
      ro %arg5[%c0 for %c16384] : !stream.resource<external>{%c16384},
      wo %arg9[%4#1 for %c32768] : !stream.resource<transient>{%4#0}
    }
    stream.cmd.dispatch @main_dispatch_1::@main_dispatch_1_matmul_64x128x128_f32 {
      ro %arg9[%4#1 for %c32768] : !stream.resource<transient>{%4#0},
      ro %arg6[%c0 for %c65536] : !stream.resource<external>{%c65536},
      wo %arg9[%4#2 for %c32768] : !stream.resource<transient>{%4#0}
    }
    stream.cmd.dispatch @main_dispatch_2::@main_dispatch_2_matmul_64x128x128_f32 {
      ro %arg9[%4#2 for %c32768] : !stream.resource<transient>{%4#0},
      ro %arg7[%c0 for %c65536] : !stream.resource<external>{%c65536},
      wo %arg9[%4#3 for %c32768] : !stream.resource<transient>{%4#0}
    }
    stream.cmd.dispatch @main_dispatch_3::@main_dispatch_3_softmax_64x128xf32_dispatch_tensor_store {
      ro %arg9[%4#3 for %c32768] : !stream.resource<transient>{%4#0},
      wo %arg9[%4#4 for %c32768] : !stream.resource<transient>{%4#0}
    }
    stream.cmd.dispatch @main_dispatch_4::@main_dispatch_4_matmul_64x128x128_f32 {
      ro %arg9[%4#4 for %c32768] : !stream.resource<transient>{%4#0},
      ro %arg7[%c0 for %c65536] : !stream.resource<external>{%c65536},
      wo %arg9[%4#5 for %c32768] : !stream.resource<transient>{%4#0}
    }
    stream.cmd.dispatch @main_dispatch_5::@main_dispatch_5_matmul_64x128x128_f32 {
      ro %arg9[%4#5 for %c32768] : !stream.resource<transient>{%4#0},
      ro %arg6[%c0 for %c65536] : !stream.resource<external>{%c65536},
      ro %arg9[%4#4 for %c32768] : !stream.resource<transient>{%4#0},
      wo %arg9[%4#6 for %c32768] : !stream.resource<transient>{%4#0}
    }
    stream.cmd.dispatch @main_dispatch_5::@main_dispatch_5_matmul_64x128x128_f32 {
      ro %arg9[%4#6 for %c32768] : !stream.resource<transient>{%4#0},
      ro %arg6[%c0 for %c65536] : !stream.resource<external>{%c65536},
      ro %arg9[%4#2 for %c32768] : !stream.resource<transient>{%4#0},
      wo %arg8[%c0_0 for %c32768] : !stream.resource<external>{%c32768}
    }
  } => !stream.timepoint
  %7 = stream.resource.dealloca on(#hal.device.affinity<@__device_0>) await(%6) => %result_1 : !stream.resource<transient>{%4#0} => !stream.timepoint
  %8 = stream.timepoint.join max(%7, %6) => !stream.timepoint
  %9 = stream.timepoint.await %8 => %result : !stream.resource<external>{%c32768}
  %10 = stream.tensor.export on(#hal.device.affinity<@__device_0>) %9 : tensor<64x128xf32> in !stream.resource<external>{%c32768} -> !hal.buffer_view
  util.return %10 : !hal.buffer_view
}

