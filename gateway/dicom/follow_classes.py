"""Which SOP classes without pictures may leave beside protected objects.

An allow-list: whatever is not named here stays. Every class of images stays,
and so do raw data, spectroscopy, parametric and thickness maps (they are or hold
the measured pixels), voice recordings, and whatever is private.
"""

from __future__ import annotations

from typing import Final

from pydicom import uid

REPORTS: Final = frozenset(
    (
        uid.BasicTextSRStorage,
        uid.EnhancedSRStorage,
        uid.ComprehensiveSRStorage,
        uid.Comprehensive3DSRStorage,
        uid.ExtensibleSRStorage,
        uid.ProcedureLogStorage,
        uid.MammographyCADSRStorage,
        uid.KeyObjectSelectionDocumentStorage,
        uid.ChestCADSRStorage,
        uid.XRayRadiationDoseSRStorage,
        uid.RadiopharmaceuticalRadiationDoseSRStorage,
        uid.ColonCADSRStorage,
        uid.ImplantationPlanSRStorage,
        uid.AcquisitionContextSRStorage,
        uid.SimplifiedAdultEchoSRStorage,
        uid.PatientRadiationDoseSRStorage,
        uid.PlannedImagingAgentAdministrationSRStorage,
        uid.PerformedImagingAgentAdministrationSRStorage,
        uid.EnhancedXRayRadiationDoseSRStorage,
        uid.WaveformAnnotationSRStorage,
        uid.ContentAssessmentResultsStorage,
    )
)
"""Structured reports and key object selections (PS3.3 A.35)."""

PRESENTATION_STATES: Final = frozenset(
    (
        uid.GrayscaleSoftcopyPresentationStateStorage,
        uid.ColorSoftcopyPresentationStateStorage,
        uid.PseudoColorSoftcopyPresentationStateStorage,
        uid.BlendingSoftcopyPresentationStateStorage,
        uid.XAXRFGrayscaleSoftcopyPresentationStateStorage,
        uid.GrayscalePlanarMPRVolumetricPresentationStateStorage,
        uid.CompositingPlanarMPRVolumetricPresentationStateStorage,
        uid.AdvancedBlendingPresentationStateStorage,
        uid.VolumeRenderingVolumetricPresentationStateStorage,
        uid.SegmentedVolumeRenderingVolumetricPresentationStateStorage,
        uid.MultipleVolumeRenderingVolumetricPresentationStateStorage,
        uid.VariableModalityLUTSoftcopyPresentationStateStorage,
    )
)
"""Presentation states (PS3.3 A.33)."""

LABEL_MAP_SEGMENTATION: Final = uid.UID("1.2.840.10008.5.1.4.1.1.66.7")

SEGMENTATIONS: Final = frozenset((uid.SegmentationStorage, LABEL_MAP_SEGMENTATION))

OWN_PIXELS: Final = SEGMENTATIONS | {uid.RTDoseStorage}
"""Classes whose pixel data are labels or doses, not the picture of a patient."""

RADIOTHERAPY: Final = frozenset(
    (
        uid.RTDoseStorage,
        uid.RTStructureSetStorage,
        uid.RTBeamsTreatmentRecordStorage,
        uid.RTPlanStorage,
        uid.RTBrachyTreatmentRecordStorage,
        uid.RTTreatmentSummaryRecordStorage,
        uid.RTIonPlanStorage,
        uid.RTIonBeamsTreatmentRecordStorage,
        uid.RTPhysicianIntentStorage,
        uid.RTSegmentAnnotationStorage,
        uid.RTRadiationSetStorage,
        uid.CArmPhotonElectronRadiationStorage,
        uid.TomotherapeuticRadiationStorage,
        uid.RoboticArmRadiationStorage,
        uid.RTRadiationRecordSetStorage,
        uid.RTRadiationSalvageRecordStorage,
        uid.TomotherapeuticRadiationRecordStorage,
        uid.CArmPhotonElectronRadiationRecordStorage,
        uid.RoboticRadiationRecordStorage,
        uid.RTRadiationSetDeliveryInstructionStorage,
        uid.RTTreatmentPreparationStorage,
        uid.RTPatientPositionAcquisitionInstructionStorage,
    )
)

WAVEFORMS: Final = frozenset(
    (
        uid.TwelveLeadECGWaveformStorage,
        uid.GeneralECGWaveformStorage,
        uid.AmbulatoryECGWaveformStorage,
        uid.General32bitECGWaveformStorage,
        uid.HemodynamicWaveformStorage,
        uid.CardiacElectrophysiologyWaveformStorage,
        uid.ArterialPulseWaveformStorage,
        uid.RespiratoryWaveformStorage,
        uid.MultichannelRespiratoryWaveformStorage,
        uid.RoutineScalpElectroencephalogramWaveformStorage,
        uid.ElectromyogramWaveformStorage,
        uid.ElectrooculogramWaveformStorage,
        uid.SleepElectroencephalogramWaveformStorage,
        uid.BodyPositionWaveformStorage,
    )
)
"""Waveforms (PS3.3 A.34) without the two classes of audio."""

DOCUMENTS: Final = frozenset(
    (
        uid.EncapsulatedPDFStorage,
        uid.EncapsulatedCDAStorage,
        uid.EncapsulatedSTLStorage,
    )
)

SPATIAL: Final = frozenset(
    (
        uid.SpatialRegistrationStorage,
        uid.SpatialFiducialsStorage,
        uid.DeformableSpatialRegistrationStorage,
        uid.SurfaceSegmentationStorage,
        uid.TractographyResultsStorage,
        uid.RealWorldValueMappingStorage,
        uid.StereometricRelationshipStorage,
        uid.MicroscopyBulkSimpleAnnotationsStorage,
    )
)

MEASUREMENTS: Final = frozenset(
    (
        uid.LensometryMeasurementsStorage,
        uid.AutorefractionMeasurementsStorage,
        uid.KeratometryMeasurementsStorage,
        uid.SubjectiveRefractionMeasurementsStorage,
        uid.VisualAcuityMeasurementsStorage,
        uid.SpectaclePrescriptionReportStorage,
        uid.OphthalmicAxialMeasurementsStorage,
        uid.IntraocularLensCalculationsStorage,
        uid.MacularGridThicknessAndVolumeReportStorage,
        uid.OphthalmicVisualFieldStaticPerimetryMeasurementsStorage,
    )
)
"""Ophthalmic measurements: numbers and curves, no pictures."""

FOLLOWERS: Final = (
    REPORTS
    | PRESENTATION_STATES
    | SEGMENTATIONS
    | RADIOTHERAPY
    | WAVEFORMS
    | DOCUMENTS
    | SPATIAL
    | MEASUREMENTS
)


def may_pass(sop_class_uid: str) -> bool:
    """Whether objects of a class may leave with their references rewritten."""
    return sop_class_uid in FOLLOWERS
