"""Codes of audit messages (PS3.16 CID 400 to 405, Annex D; PS3.15 A.5.1.2)."""

from __future__ import annotations

from typing import Final

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

# CID 400: what happened
APPLICATION_ACTIVITY: Final = codes.DCM.ApplicationActivity
AUDIT_LOG_USED: Final = codes.DCM.AuditLogUsed
BEGIN_TRANSFERRING: Final = codes.DCM.BeginTransferringDICOMInstances
INSTANCES_ACCESSED: Final = codes.DCM.DICOMInstancesAccessed
INSTANCES_TRANSFERRED: Final = codes.DCM.DICOMInstancesTransferred
STUDY_DELETED: Final = codes.DCM.DICOMStudyDeleted
QUERY: Final = codes.DCM.Query
SECURITY_ALERT: Final = codes.DCM.SecurityAlert
USER_AUTHENTICATION: Final = codes.DCM.UserAuthentication

# CID 401: of which kind
APPLICATION_START: Final = codes.DCM.ApplicationStart
APPLICATION_STOP: Final = codes.DCM.ApplicationStop
LOGIN: Final = codes.DCM.Login
LOGOUT: Final = codes.DCM.Logout
NODE_AUTHENTICATION: Final = codes.DCM.NodeAuthentication
SECURITY_CONFIGURATION: Final = codes.DCM.SecurityConfiguration
SOFTWARE_CONFIGURATION: Final = codes.DCM.SoftwareConfiguration
RESTRICTED_FUNCTION: Final = codes.DCM.UseOfRestrictedFunction
RECORDING_STOPPED: Final = codes.DCM.AuditRecordingStopped
SECURITY_ATTRIBUTES: Final = codes.DCM.ObjectSecurityAttributesChanged
SECURITY_ROLES: Final = codes.DCM.SecurityRolesChanged

# CID 402: who
APPLICATION: Final = codes.DCM.Application
LAUNCHER: Final = codes.DCM.ApplicationLauncher
DESTINATION: Final = codes.DCM.DestinationRoleID
SOURCE: Final = codes.DCM.SourceRoleID

# CID 404 and A.5.1.2.4: what an identifier is
STUDY_INSTANCE_UID: Final = codes.DCM.StudyInstanceUID
SOP_CLASS_UID: Final = codes.DCM.SOPClassUID
NODE_ID: Final = codes.DCM.NodeID
PATIENT_NUMBER: Final = Code("2", "RFC-3881", "Patient Number")
URI: Final = Code("12", "RFC-3881", "URI")
